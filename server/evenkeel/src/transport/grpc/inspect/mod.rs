//! `evenkeel.v1.Inspect`: what operators look at. Lists read the store; watches follow the sweep.

use std::{
    collections::{HashMap, HashSet},
    ops::Bound,
    pin::Pin,
    sync::Arc,
};

use evenkeel_domain::{
    DomainError, HolderId, LeaseId, PoolId,
    page::{cut, page_size_of},
};
use evenkeel_engine::balancer::{pool_entry::PoolEntry, view::PoolView};
use evenkeel_proto::v1::{
    EndpointState, GetActivityRequest, GetActivityResponse, GetPoolRequest, GetRefusalRequest, HolderState,
    LeaseState, ListHoldersRequest, ListHoldersResponse, ListLeasesRequest, ListLeasesResponse,
    ListNearestLimitsRequest, ListNearestLimitsResponse, ListPoolsRequest, ListPoolsResponse,
    ListQuotaBurnsRequest, ListQuotaBurnsResponse, ListRefusalsRequest, ListRefusalsResponse,
    ListRepairsRequest, ListRepairsResponse, ListSidecarsRequest, ListSidecarsResponse, Pool, PoolState,
    Refusal, WatchPoolsRequest, inspect_server::Inspect,
};
use evenkeel_store::{Lease, Table};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::transport::{capacity::Capacity, status::to_status};

mod told;

/// Tables, or holders' leases, read at once for one list.
const CONCURRENCY: usize = 16;
/// Pool states that wait for a slow watcher; further changes are merged until it catches up.
const WATCH_BUFFER: usize = 64;

pub(super) struct InspectService {
    capacity: Arc<Capacity>,
    /// Ends the watches, which would otherwise hold up a drain.
    shutdown: CancellationToken,
}

impl InspectService {
    pub(super) fn new(capacity: Arc<Capacity>, shutdown: CancellationToken) -> Self {
        Self { capacity, shutdown }
    }

    fn entry(&self, pool: Option<Pool>) -> Result<Arc<PoolEntry>, Status> {
        let pool = pool.ok_or_else(|| to_status(&DomainError::invalid("pool", "given", "none")))?;
        self.capacity.pool(&pool.route, &pool.cluster).map_err(|e| to_status(&e))
    }

    async fn table(&self, entry: &PoolEntry) -> Result<(Table, bool), Status> {
        let table = self.capacity.balancer.store.table(&entry.pool).await;
        table.map_err(DomainError::store("reading a pool's table")).map_err(|e| to_status(&e))
    }

    async fn leases(&self, entry: &PoolEntry, holder: &HolderId) -> Result<Vec<Lease>, Status> {
        let leases = self.capacity.balancer.store.leases(&entry.pool, holder).await;
        leases.map_err(DomainError::store("reading leases")).map_err(|e| to_status(&e))
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
        let size = page_size_of(page_size).map_err(|e| to_status(&e))?;
        let after = pool_of(&page_token).map_err(|e| to_status(&e))?;
        let mut entries = self.capacity.balancer.directory.all();
        entries.retain(|entry| after.as_ref().is_none_or(|after| entry.pool.id > *after));
        let next_page_token = cut(&mut entries, size, |entry| pool_token(&entry.pool.id));
        let pools = futures::stream::iter(entries)
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
        let mut wanted = HashSet::new();
        for pool in request.into_inner().pools {
            // As ListPools shows it, or as a gateway calls it.
            let listed = PoolId::new(&pool.route, &pool.cluster).map_err(|e| to_status(&e))?;
            let resolved = self.capacity.balancer.directory.identity(&pool.route, &pool.cluster);
            wanted.extend([listed, resolved.map_err(|e| to_status(&e))?]);
        }
        let (send, receive) = mpsc::channel(WATCH_BUFFER);
        let (views, mut swept) = (Arc::clone(&self.capacity.views), self.capacity.views.subscribe());
        let shutdown = self.shutdown.clone();
        // Ends when the watcher goes away, or the sidecar drains.
        tokio::spawn(async move {
            let mut told: HashMap<PoolId, Arc<PoolView>> = HashMap::new();
            loop {
                for (id, view) in views.all().iter() {
                    let changed = told.get(id).is_none_or(|before| before.differs(view));
                    if changed && (wanted.is_empty() || wanted.contains(id)) {
                        // A watcher that does not read must not hold up the drain either.
                        tokio::select! {
                            sent = send.send(Ok(encode(view))) => if sent.is_err() { return },
                            () = shutdown.cancelled() => return,
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
        let (entry, now_ms) = (&entry, table.now_ms as i64);
        let holders = futures::stream::iter(table.holders)
            .map(|(holder, deadline_ms)| async move {
                let leases = self.leases(entry, &holder).await?.len() as u64;
                let deadline_in_ms = deadline_ms as i64 - now_ms;
                Ok::<_, Status>(HolderState { holder: holder.to_string(), leases, deadline_in_ms })
            })
            .buffered(CONCURRENCY);
        let holders = holders.try_collect().await?;
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
        let size = page_size_of(page_size).map_err(|e| to_status(&e))?;
        let after = lease_of(&page_token).map_err(|e| to_status(&e))?;
        // Only holders from the last page's on are read, and no more than fill this one.
        let from = after.as_ref().map_or(Bound::Unbounded, |(holder, _)| Bound::Included(holder.clone()));
        let holders = table.holders.range((from, Bound::Unbounded)).map(|(holder, _)| holder.clone());
        let wanted: Vec<_> = holders.filter(|h| only.as_ref().is_none_or(|only| only == h)).collect();
        let entry = &entry;
        let mut read = futures::stream::iter(wanted)
            .map(|holder| async move { self.leases(entry, &holder).await.map(|leases| (holder, leases)) })
            .buffered(CONCURRENCY);
        let mut page: Vec<LeaseState> = Vec::new();
        while page.len() <= size
            && let Some((holder, leases)) = read.try_next().await?
        {
            let seen = |lease: &Lease| {
                after.as_ref().is_some_and(|(last, through)| *last == holder && lease.id <= *through)
            };
            page.extend(leases.into_iter().filter(|lease| !seen(lease)).take(size + 1 - page.len()).map(
                |lease| LeaseState {
                    holder: holder.to_string(),
                    lease: lease.id.get(),
                    endpoint: lease.endpoint.to_string(),
                    age_ms: table.now_ms.saturating_sub(lease.since_ms),
                },
            ));
        }
        let next_page_token = cut(&mut page, size, |last| format!("{}:{}", last.holder, last.lease));
        Ok(Response::new(ListLeasesResponse { leases: page, next_page_token }))
    }

    async fn list_sidecars(
        &self,
        _request: Request<ListSidecarsRequest>,
    ) -> Result<Response<ListSidecarsResponse>, Status> {
        told::sidecars(&self.capacity).await.map(Response::new).map_err(|e| to_status(&e))
    }

    async fn get_activity(
        &self,
        request: Request<GetActivityRequest>,
    ) -> Result<Response<GetActivityResponse>, Status> {
        told::activity(&self.capacity, request.into_inner())
            .await
            .map(Response::new)
            .map_err(|e| to_status(&e))
    }

    async fn list_nearest_limits(
        &self,
        request: Request<ListNearestLimitsRequest>,
    ) -> Result<Response<ListNearestLimitsResponse>, Status> {
        told::nearest(&self.capacity, request.into_inner())
            .await
            .map(Response::new)
            .map_err(|e| to_status(&e))
    }

    async fn list_quota_burns(
        &self,
        request: Request<ListQuotaBurnsRequest>,
    ) -> Result<Response<ListQuotaBurnsResponse>, Status> {
        told::burns(&self.capacity, request.into_inner()).await.map(Response::new).map_err(|e| to_status(&e))
    }

    async fn list_refusals(
        &self,
        request: Request<ListRefusalsRequest>,
    ) -> Result<Response<ListRefusalsResponse>, Status> {
        told::refusals(&self.capacity, request.into_inner())
            .await
            .map(Response::new)
            .map_err(|e| to_status(&e))
    }

    async fn get_refusal(&self, request: Request<GetRefusalRequest>) -> Result<Response<Refusal>, Status> {
        told::refusal(&self.capacity, request.into_inner())
            .await
            .map(Response::new)
            .map_err(|e| to_status(&e))
    }

    async fn list_repairs(
        &self,
        request: Request<ListRepairsRequest>,
    ) -> Result<Response<ListRepairsResponse>, Status> {
        told::repairs(&self.capacity, request.into_inner())
            .await
            .map(Response::new)
            .map_err(|e| to_status(&e))
    }
}

// Names hold no control characters.
fn pool_token(id: &PoolId) -> String {
    format!("{}\n{}", id.route(), id.cluster())
}

fn pool_of(token: &str) -> Result<Option<PoolId>, DomainError> {
    if token.is_empty() {
        return Ok(None);
    }
    let id = token.split_once('\n').and_then(|(route, cluster)| PoolId::new(route, cluster).ok());
    id.map(Some).ok_or_else(|| wrong_token(token))
}

fn lease_of(token: &str) -> Result<Option<(HolderId, LeaseId)>, DomainError> {
    if token.is_empty() {
        return Ok(None);
    }
    let key = token.split_once(':').and_then(|(holder, lease)| {
        Some((HolderId::new(holder).ok()?, LeaseId::new(lease.parse().ok()?).ok()?))
    });
    key.map(Some).ok_or_else(|| wrong_token(token))
}

fn wrong_token(token: &str) -> DomainError {
    DomainError::invalid("page_token", "one from the previous page", &format!("{token:?}"))
}

fn encode(view: &PoolView) -> PoolState {
    let endpoints = view.endpoints.iter().map(|endpoint| EndpointState {
        address: endpoint.address.to_string(),
        in_flight: endpoint.in_flight,
        weight: endpoint.weight,
        cap: endpoint.cap,
        listed: endpoint.listed,
        drained: endpoint.drained,
    });
    PoolState {
        pool: Some(Pool { route: view.route.clone(), cluster: view.cluster.clone() }),
        endpoints: endpoints.collect(),
        in_flight: view.in_flight,
        capacity: view.capacity.unwrap_or(0),
        holders: view.holders as u32,
        read_at_ms: view.read_at_ms,
        current: view.current,
        imbalance: view.imbalance,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_cut_with_a_token_only_where_more_follows() {
        let cut_at = |size| {
            let mut list = vec![1, 2, 3];
            let token = cut(&mut list, size, ToString::to_string);
            (list.len(), token)
        };
        assert_eq!(cut_at(2), (2, "2".to_owned()));
        assert_eq!(cut_at(3), (3, String::new()));
        assert!(page_size_of(1001).is_err());
    }

    #[test]
    fn tokens_are_read_back() {
        let id = PoolId::new("outbound|80||x.dns", "a:b c").unwrap();
        assert_eq!(pool_of(&pool_token(&id)).unwrap(), Some(id));
        let (holder, lease) = lease_of("g-1.x:7").unwrap().unwrap();
        assert_eq!((holder.as_str(), lease.get()), ("g-1.x", 7));
        for wrong in ["x", "g:", "g:0", ":1", "7"] {
            assert!(lease_of(wrong).is_err() && pool_of(wrong).is_err(), "{wrong:?}");
        }
    }
}
