//! Operations on pools with their endpoints, holders and leases, read from the pools' tables.

use std::{cmp::Ordering, ops::Bound, sync::Arc};

use evenkeel_domain::{
    DomainError, HolderId, LeaseId, PoolId, choice,
    page::{cut, page_at, page_size_of},
};
use evenkeel_engine::balancer::{
    pool_entry::PoolEntry,
    view::{EndpointView, PoolView},
};
use evenkeel_proto::v1::{
    EndpointSort, EndpointState, GetPoolRequest, HolderState, LeaseState, ListEndpointsRequest,
    ListEndpointsResponse, ListHoldersRequest, ListHoldersResponse, ListLeasesRequest, ListLeasesResponse,
    ListPoolsRequest, ListPoolsResponse, Policy, PoolState, PoolSummary,
};
use evenkeel_store::{Lease, Table};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::{Api, Result};

/// Maximum number of tables, or of holders' leases, read concurrently for one list.
const CONCURRENCY: usize = 16;
/// Default number of endpoints on a page.
const ENDPOINTS: u32 = 50;

impl Api {
    pub async fn list_pools(&self, request: ListPoolsRequest) -> Result<ListPoolsResponse> {
        let ListPoolsRequest { search, page_size, page_token } = request;
        let size = page_size_of(page_size)?;
        let after = pool_after(&page_token)?;
        let mut entries = self.balancer.directory.all();
        entries.retain(|entry| {
            entry.pool.id.cluster().contains(&search) || entry.pool.id.route().contains(&search)
        });
        let total = entries.len() as u64;
        entries.retain(|entry| after.as_ref().is_none_or(|after| entry.pool.id > *after));
        let next_page_token = cut(&mut entries, size, |entry| pool_token(&entry.pool.id));
        let pools = stream::iter(entries)
            .map(|entry| async move { self.view(&entry).await.map(|view| state(&view)) })
            .buffered(CONCURRENCY);
        Ok(ListPoolsResponse { pools: pools.try_collect().await?, next_page_token, total })
    }

    pub async fn get_pool(&self, request: GetPoolRequest) -> Result<PoolState> {
        let entry = self.entry(&request.route, &request.cluster)?;
        Ok(state(&self.view(&entry).await?))
    }

    pub async fn list_endpoints(&self, request: ListEndpointsRequest) -> Result<ListEndpointsResponse> {
        let entry = self.entry(&request.route, &request.cluster)?;
        endpoints_of(&self.view(&entry).await?, &request)
    }

    pub async fn list_holders(&self, request: ListHoldersRequest) -> Result<ListHoldersResponse> {
        let ListHoldersRequest { route, cluster, search, page_size, page_token } = request;
        let entry = self.entry(&route, &cluster)?;
        let table = self.table(&entry).await?;
        let wanted: Vec<_> =
            table.holders.into_iter().filter(|(holder, _)| holder.as_str().contains(&search)).collect();
        let total = wanted.len() as u64;
        let (page, next_page_token) = page_at(wanted, page_size_of(page_size)?, &page_token)?;
        let (entry, now_ms) = (&entry, table.now_ms as i64);
        let holders = stream::iter(page)
            .map(|(holder, deadline_ms)| async move {
                let leases = self.leases(entry, &holder).await?.len() as u64;
                let deadline_in_ms = deadline_ms as i64 - now_ms;
                Result::Ok(HolderState { holder: holder.to_string(), leases, deadline_in_ms })
            })
            .buffered(CONCURRENCY);
        Ok(ListHoldersResponse { holders: holders.try_collect().await?, next_page_token, total })
    }

    pub async fn list_leases(&self, request: ListLeasesRequest) -> Result<ListLeasesResponse> {
        let ListLeasesRequest { route, cluster, holder, search, page_size, page_token } = request;
        let entry = &self.entry(&route, &cluster)?;
        let table = self.table(entry).await?;
        let only = if holder.is_empty() { None } else { Some(HolderId::new(&holder)?) };
        let size = page_size_of(page_size)?;
        let after = lease_after(&page_token)?;
        // Start at the last holder of the previous page, which may have more leases, and read only the holders needed
        // to fill this page.
        let from = after.as_ref().map_or(Bound::Unbounded, |(holder, _)| Bound::Included(holder.clone()));
        let holders = table.holders.range((from, Bound::Unbounded)).map(|(holder, _)| holder.clone());
        let wanted: Vec<_> = holders.filter(|h| only.as_ref().is_none_or(|only| only == h)).collect();
        let mut read = stream::iter(wanted)
            .map(|holder| async move { self.leases(entry, &holder).await.map(|leases| (holder, leases)) })
            .buffered(CONCURRENCY);
        let mut leases: Vec<LeaseState> = Vec::new();
        while leases.len() <= size
            && let Some((holder, of_holder)) = read.try_next().await?
        {
            let seen = |lease: &Lease| {
                after.as_ref().is_some_and(|(last, through)| *last == holder && lease.id <= *through)
            };
            let found = |lease: &Lease| holder.as_str().contains(&search) || lease.endpoint.contains(&search);
            let unseen = of_holder.into_iter().filter(|lease| found(lease) && !seen(lease));
            leases.extend(unseen.take(size + 1 - leases.len()).map(|lease| LeaseState {
                holder: holder.to_string(),
                lease: lease.id.get(),
                endpoint: lease.endpoint.to_string(),
                age_ms: table.now_ms.saturating_sub(lease.since_ms),
                unread_tokens: lease.unread,
            }));
        }
        let next_page_token = cut(&mut leases, size, |last| format!("{}:{}", last.holder, last.lease));
        Ok(ListLeasesResponse { leases, next_page_token })
    }

    /// Returns the pool with these names, which may be those that gateways send or those that lists show.
    pub(crate) fn entry(&self, route: &str, cluster: &str) -> Result<Arc<PoolEntry>> {
        if cluster.is_empty() {
            return Err(DomainError::invalid("cluster", "the name of a pool's cluster", "none").into());
        }
        Ok(self.balancer.directory.find(route, cluster)?)
    }

    async fn view(&self, entry: &PoolEntry) -> Result<PoolView> {
        Ok(PoolView::new(entry, &self.table(entry).await?))
    }

    async fn table(&self, entry: &PoolEntry) -> Result<Table> {
        let table = self.balancer.store.table(&entry.pool).await;
        Ok(table.map_err(DomainError::store("reading a pool's table"))?)
    }

    async fn leases(&self, entry: &PoolEntry, holder: &HolderId) -> Result<Vec<Lease>> {
        let leases = self.balancer.store.leases(&entry.pool, holder).await;
        Ok(leases.map_err(DomainError::store("reading leases"))?)
    }
}

pub(crate) fn state(view: &PoolView) -> PoolState {
    PoolState {
        route: view.route.clone(),
        cluster: view.cluster.clone(),
        endpoints: view.endpoints.iter().map(endpoint).collect(),
        in_flight: view.in_flight,
        capacity: view.capacity,
        holders: view.holders,
        read_at_ms: view.read_at_ms,
        current: view.current,
        imbalance: view.imbalance,
        policy: policy(view.policy).into(),
        unread_tokens: view.unread_tokens,
        hit_rate: view.hit_rate.map(|rate| rate.cached),
        expected_hit_rate: view.hit_rate.map(|rate| rate.expected),
    }
}

pub(crate) fn summary(view: &PoolView) -> PoolSummary {
    let listed = || view.endpoints.iter().filter(|endpoint| endpoint.listed);
    let is_full = |e: &&EndpointView| e.cap > 0 && e.in_flight >= u64::from(e.cap);
    PoolSummary {
        route: view.route.clone(),
        cluster: view.cluster.clone(),
        in_flight: view.in_flight,
        capacity: view.capacity,
        room: view.room(),
        endpoints: listed().count() as u64,
        full: listed().filter(is_full).count() as u64,
        drained: view.endpoints.iter().filter(|endpoint| endpoint.drained).count() as u64,
        holders: view.holders,
        imbalance: view.imbalance,
        current: view.current,
        read_at_ms: view.read_at_ms,
        policy: policy(view.policy).into(),
        unread_tokens: view.unread_tokens,
        hit_rate: view.hit_rate.map(|rate| rate.cached),
        expected_hit_rate: view.hit_rate.map(|rate| rate.expected),
    }
}

fn policy(policy: choice::Policy) -> Policy {
    match policy {
        choice::Policy::LeastRequest => Policy::LeastRequest,
        choice::Policy::LeastWork => Policy::LeastWork,
    }
}

/// Returns one page of a pool's endpoints.
pub(crate) fn endpoints_of(view: &PoolView, request: &ListEndpointsRequest) -> Result<ListEndpointsResponse> {
    let mut endpoints: Vec<EndpointState> =
        view.endpoints.iter().filter(|e| e.address.contains(&request.search)).map(endpoint).collect();
    sort(&mut endpoints, request.sort());
    let total = endpoints.len() as u64;
    let size = if request.page_size == 0 { ENDPOINTS } else { request.page_size };
    let (endpoints, next_page_token) = page_at(endpoints, page_size_of(size)?, &request.page_token)?;
    Ok(ListEndpointsResponse { pool: Some(summary(view)), endpoints, next_page_token, total })
}

fn endpoint(view: &EndpointView) -> EndpointState {
    EndpointState {
        address: view.address.to_string(),
        in_flight: view.in_flight,
        weight: view.weight,
        cap: view.cap,
        listed: view.listed,
        drained: view.drained,
        unread_tokens: view.unread_tokens,
        hit_rate: view.hit_rate.map(|rate| rate.cached),
        expected_hit_rate: view.hit_rate.map(|rate| rate.expected),
    }
}

fn sort(endpoints: &mut [EndpointState], sort: EndpointSort) {
    let load = |e: &EndpointState| {
        let size = if e.cap > 0 { f64::from(e.cap) } else { e.weight.max(f64::MIN_POSITIVE) };
        e.in_flight as f64 / size
    };
    let room = |e: &EndpointState| {
        if e.cap > 0 { u64::from(e.cap).saturating_sub(e.in_flight) } else { u64::MAX }
    };
    endpoints.sort_by(|a, b| {
        let order = match sort {
            EndpointSort::Unspecified | EndpointSort::Load => load(b).total_cmp(&load(a)),
            EndpointSort::InFlight => b.in_flight.cmp(&a.in_flight),
            EndpointSort::Address => Ordering::Equal,
            EndpointSort::Room => room(a).cmp(&room(b)),
        };
        order.then_with(|| a.address.cmp(&b.address))
    });
}

// A newline separates the two names, because names contain no control characters.
fn pool_token(id: &PoolId) -> String {
    format!("{}\n{}", id.route(), id.cluster())
}

fn pool_after(token: &str) -> Result<Option<PoolId>> {
    let parse = || token.split_once('\n').and_then(|(route, cluster)| PoolId::new(route, cluster).ok());
    parse_token(token, parse)
}

fn lease_after(token: &str) -> Result<Option<(HolderId, LeaseId)>> {
    parse_token(token, || {
        let (holder, lease) = token.split_once(':')?;
        Some((HolderId::new(holder).ok()?, LeaseId::new(lease.parse().ok()?).ok()?))
    })
}

fn parse_token<T>(token: &str, parse: impl FnOnce() -> Option<T>) -> Result<Option<T>> {
    if token.is_empty() {
        return Ok(None);
    }
    let wrong = || DomainError::invalid("page_token", "one from the previous page", &format!("{token:?}"));
    Ok(Some(parse().ok_or_else(wrong)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_sorted_as_requested() {
        let endpoint = |address: &str, in_flight, cap| EndpointState {
            address: address.to_owned(),
            in_flight,
            weight: 1.0,
            cap,
            listed: true,
            drained: false,
            unread_tokens: 0,
            hit_rate: None,
            expected_hit_rate: None,
        };
        let sorted = |order| {
            let mut list =
                [endpoint("c", 3, 0), endpoint("a", 2, 2), endpoint("b", 5, 100), endpoint("d", 0, 1)];
            sort(&mut list, order);
            list.map(|e| e.address).concat()
        };
        assert_eq!([sorted(EndpointSort::Load), sorted(EndpointSort::Unspecified)], ["cabd", "cabd"]);
        assert_eq!(sorted(EndpointSort::InFlight), "bcad");
        assert_eq!(sorted(EndpointSort::Address), "abcd");
        assert_eq!(sorted(EndpointSort::Room), "adbc");
    }

    #[test]
    fn page_tokens_are_read_back() {
        let id = PoolId::new("outbound|80||x.dns", "a:b c").unwrap();
        assert_eq!(pool_after(&pool_token(&id)).unwrap(), Some(id));
        let (holder, lease) = lease_after("g-1.x:7").unwrap().unwrap();
        assert_eq!((holder.as_str(), lease.get()), ("g-1.x", 7));
        for wrong in ["x", "g:", "g:0", ":1", "7"] {
            assert!(lease_after(wrong).is_err() && pool_after(wrong).is_err(), "{wrong:?}");
        }
    }
}
