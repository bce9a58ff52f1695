//! `evenkeel.v1.Inspect`: what operators look at. Lists read the store; watches follow the sweep.

use std::{collections::HashMap, pin::Pin, sync::Arc};

use evenkeel_proto::v1::{
    EndpointState, GetPoolRequest, HolderState, LeaseState, ListHoldersRequest, ListHoldersResponse,
    ListLeasesRequest, ListLeasesResponse, ListPoolsRequest, ListPoolsResponse, Pool, PoolState,
    WatchPoolsRequest, inspect_server::Inspect,
};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    balancer::{Balancer, directory::PoolEntry, sweep::Views, view::PoolView},
    domain::{DomainError, HolderId, PoolId},
    store::Table,
    transport::status::to_status,
};

const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;
/// Tables read at once for one list.
const CONCURRENCY: usize = 16;
/// Pool states that wait for a slow watcher; further changes are merged until it catches up.
const WATCH_BUFFER: usize = 64;

pub(super) struct InspectService {
    balancer: Arc<Balancer>,
    views: Arc<Views>,
    /// Ends the watches, which would otherwise hold up a drain.
    shutdown: CancellationToken,
}

impl InspectService {
    pub(super) fn new(balancer: Arc<Balancer>, views: Arc<Views>, shutdown: CancellationToken) -> Self {
        Self { balancer, views, shutdown }
    }

    fn entry(&self, pool: Option<Pool>) -> Result<Arc<PoolEntry>, Status> {
        let pool = pool.ok_or_else(|| to_status(&DomainError::invalid("pool", "given", "none")))?;
        let id = PoolId::new(&pool.route, &pool.cluster).map_err(|e| to_status(&e))?;
        let known = self.balancer.directory.all().into_iter().find(|entry| entry.pool.id == id);
        known.ok_or_else(|| {
            to_status(&DomainError::NotFound {
                what: format!("pool of route {:?} and cluster {:?}", pool.route, pool.cluster),
                hint: "ListPools names those known; its route is empty where routes share a table",
            })
        })
    }

    async fn table(&self, entry: &PoolEntry) -> Result<(Table, bool), Status> {
        let table = self.balancer.store.table(&entry.pool).await;
        table.map_err(DomainError::store("reading a pool's table")).map_err(|e| to_status(&e))
    }

    async fn state(&self, entry: &PoolEntry) -> Result<PoolState, Status> {
        let (table, current) = self.table(entry).await?;
        Ok(encode(&PoolView::new(entry, &table, current)))
    }
}

#[tonic::async_trait]
impl Inspect for InspectService {
    async fn list_pools(
        &self,
        request: Request<ListPoolsRequest>,
    ) -> Result<Response<ListPoolsResponse>, Status> {
        let ListPoolsRequest { page_size, page_token } = request.into_inner();
        let entries = self.balancer.directory.all();
        let (page, next_page_token) = page(&entries, page_size, &page_token)?;
        let pools = futures::stream::iter(page.to_vec())
            .map(|entry| async move { self.state(&entry).await })
            .buffered(CONCURRENCY);
        Ok(Response::new(ListPoolsResponse { pools: pools.try_collect().await?, next_page_token }))
    }

    async fn get_pool(&self, request: Request<GetPoolRequest>) -> Result<Response<PoolState>, Status> {
        let entry = self.entry(request.into_inner().pool)?;
        Ok(Response::new(self.state(&entry).await?))
    }

    type WatchPoolsStream = Pin<Box<dyn futures::Stream<Item = Result<PoolState, Status>> + Send>>;

    async fn watch_pools(
        &self,
        request: Request<WatchPoolsRequest>,
    ) -> Result<Response<Self::WatchPoolsStream>, Status> {
        let mut wanted = Vec::new();
        for pool in request.into_inner().pools {
            wanted.push(PoolId::new(&pool.route, &pool.cluster).map_err(|e| to_status(&e))?);
        }
        let (send, receive) = mpsc::channel(WATCH_BUFFER);
        let (views, mut swept) = (Arc::clone(&self.views), self.views.subscribe());
        let shutdown = self.shutdown.clone();
        // Ends when the watcher goes away, or the sidecar drains.
        tokio::spawn(async move {
            let mut told: HashMap<PoolId, Arc<PoolView>> = HashMap::new();
            loop {
                for (id, view) in views.all().iter() {
                    let changed = told.get(id).is_none_or(|before| before.differs(view));
                    if changed && (wanted.is_empty() || wanted.contains(id)) {
                        if send.send(Ok(encode(view))).await.is_err() {
                            return;
                        }
                        told.insert(id.clone(), Arc::clone(view));
                    }
                }
                tokio::select! {
                    changed = swept.changed() => if changed.is_err() { return },
                    () = send.closed() => return,
                    () = shutdown.cancelled() => return,
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn list_holders(
        &self,
        request: Request<ListHoldersRequest>,
    ) -> Result<Response<ListHoldersResponse>, Status> {
        let entry = self.entry(request.into_inner().pool)?;
        let (table, _) = self.table(&entry).await?;
        let mut holders = Vec::with_capacity(table.holders.len());
        for (holder, deadline_ms) in &table.holders {
            let leases = self.balancer.store.leases(&entry.pool, holder).await;
            let leases = leases.map_err(DomainError::store("reading leases")).map_err(|e| to_status(&e))?;
            holders.push(HolderState {
                holder: holder.to_string(),
                leases: leases.len() as u64,
                deadline_in_ms: *deadline_ms as i64 - table.now_ms as i64,
            });
        }
        Ok(Response::new(ListHoldersResponse { holders }))
    }

    async fn list_leases(
        &self,
        request: Request<ListLeasesRequest>,
    ) -> Result<Response<ListLeasesResponse>, Status> {
        let ListLeasesRequest { pool, holder, page_size, page_token } = request.into_inner();
        let entry = self.entry(pool)?;
        let (table, _) = self.table(&entry).await?;
        let only = match holder.as_str() {
            "" => None,
            id => Some(HolderId::new(id).map_err(|e| to_status(&e))?),
        };
        let mut all = Vec::new();
        for holder in table.holders.keys().filter(|holder| only.as_ref().is_none_or(|only| only == *holder)) {
            let leases = self.balancer.store.leases(&entry.pool, holder).await;
            let leases = leases.map_err(DomainError::store("reading leases")).map_err(|e| to_status(&e))?;
            all.extend(leases.into_iter().map(|lease| LeaseState {
                holder: holder.to_string(),
                lease: lease.id.get(),
                endpoint: lease.endpoint.to_string(),
                age_ms: table.now_ms.saturating_sub(lease.since_ms),
            }));
        }
        let (page, next_page_token) = page(&all, page_size, &page_token)?;
        Ok(Response::new(ListLeasesResponse { leases: page.to_vec(), next_page_token }))
    }
}

/// One page of a list, and the token of the next: the position it starts at.
fn page<'a, T>(all: &'a [T], size: u32, token: &str) -> Result<(&'a [T], String), Status> {
    let size = match size as usize {
        0 => PAGE_DEFAULT,
        size if size <= PAGE_MAX => size,
        size => {
            return Err(to_status(&DomainError::invalid("page_size", "at most 1000", &size.to_string())));
        }
    };
    let from = match token {
        "" => 0,
        token => token.parse::<usize>().map_err(|_| {
            to_status(&DomainError::invalid(
                "page_token",
                "one from the previous page",
                &format!("{token:?}"),
            ))
        })?,
    };
    let rest = all.get(from..).unwrap_or_default();
    let page = &rest[..rest.len().min(size)];
    let next = if page.len() < rest.len() { (from + page.len()).to_string() } else { String::new() };
    Ok((page, next))
}

fn encode(view: &PoolView) -> PoolState {
    let endpoints = view.endpoints.iter().map(|endpoint| EndpointState {
        address: endpoint.address.to_string(),
        in_flight: endpoint.in_flight,
        weight: endpoint.weight,
        cap: endpoint.cap,
        listed: endpoint.listed,
    });
    PoolState {
        pool: Some(Pool { route: view.route.clone(), cluster: view.cluster.clone() }),
        endpoints: endpoints.collect(),
        in_flight: view.in_flight,
        capacity: view.capacity.unwrap_or(0),
        holders: view.holders as u32,
        read_at_ms: view.read_at_ms,
        current: view.current,
    }
}

#[cfg(test)]
mod tests {
    use super::page;

    #[test]
    fn pages_cover_a_list_once() {
        let all: Vec<u32> = (0..250).collect();
        let (mut token, mut seen) = (String::new(), Vec::new());
        loop {
            let (part, next) = page(&all, 0, &token).unwrap();
            seen.extend_from_slice(part);
            token = next;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(seen, all);
        assert!(page(&all, 1001, "").is_err());
        assert!(page(&all, 1, "x").is_err());
        assert_eq!(page(&all, 1, "999").unwrap().0, &[] as &[u32]);
    }
}
