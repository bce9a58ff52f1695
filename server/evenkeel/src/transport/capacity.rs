//! What the capacity page, the terminal and other watchers ask for, behind all doors: the last sweep, joined with what
//! all sidecars told.

use std::{
    cmp::Ordering,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use evenkeel_domain::{
    DomainError, StoreError,
    activity::{
        ADMIT_RESULTS, AdmitResult, Counts, FullestKey, SidecarStatus, StoreKind, admitted_and_refused,
    },
    clock::unix_ms,
    limit::{self, LimitRules, QuotaKind},
    page::page_at,
};
use evenkeel_engine::{
    activity::{BurnRate, History, Steps, report::About},
    balancer::{
        Balancer,
        pool_entry::PoolEntry,
        sweep::Views,
        view::{EndpointView, PoolView},
    },
    limiter::Limiter,
};
use serde::Serialize;

use super::administration::Administration;

/// Pools that watches tell of.
const WATCHED_POOLS: usize = 100;

/// What is looked at.
pub struct Capacity {
    /// This sidecar.
    pub about: About,
    /// When it was started, ms of the Unix epoch.
    pub started_at_ms: u64,
    /// Time between two KeepAlives.
    pub keep_alive_interval: Duration,
    /// What all sidecars told.
    pub history: History,
    /// The last sweep.
    pub views: Arc<Views>,
    /// Pools and the store.
    pub balancer: Arc<Balancer>,
    /// For limits as they stand now.
    pub limiter: Arc<Limiter>,
    /// Limits and quotas configured.
    pub rules: Arc<ArcSwap<LimitRules>>,
    /// Who may change things.
    pub administration: Arc<Administration>,
    /// The last overview that watches told.
    pub watched: Watched,
}

/// An overview as all watches tell it, and of which sweep it is.
#[derive(Default)]
pub struct Watched(tokio::sync::Mutex<Option<(Instant, Arc<Overview>)>>);

/// A part of a sorted list that is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Only what contains this.
    pub search: String,
    /// So many.
    pub size: usize,
    /// From the previous page; empty for the first.
    pub token: String,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    /// What is on it.
    pub rows: Vec<T>,
    /// Of the next page; empty at the end.
    pub next_page_token: String,
    /// Rows on all pages.
    pub total: usize,
}

impl Part {
    /// That part of a list.
    ///
    /// # Errors
    /// Where the page token is wrong.
    pub fn of<T>(&self, list: Vec<T>) -> Result<Page<T>, DomainError> {
        let total = list.len();
        let (rows, next_page_token) = page_at(list, self.size, &self.token)?;
        Ok(Page { rows, next_page_token, total })
    }
}

/// Order of pools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PoolSort {
    /// Most in flight first.
    #[default]
    InFlight,
    /// By cluster, then route.
    Name,
    /// Least room first; unlimited ones last.
    Room,
    /// Most uneven first.
    Imbalance,
}

/// Order of endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndpointSort {
    /// Fullest first: in flight by cap, or by weight where unlimited.
    #[default]
    Load,
    /// Most in flight first.
    InFlight,
    /// By address.
    Address,
    /// Least room first.
    Room,
}

/// A pool without its endpoints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PoolRow {
    route: String,
    cluster: String,
    in_flight: u64,
    capacity: Option<u64>,
    /// Requests that still fit; `None`: unlimited.
    room: Option<u64>,
    endpoints: usize,
    full: usize,
    drained: usize,
    holders: u64,
    imbalance: f64,
    current: bool,
    read_at_ms: u64,
}

impl PoolRow {
    fn of(view: &PoolView) -> Self {
        let listed = || view.endpoints.iter().filter(|endpoint| endpoint.listed);
        let is_full = |e: &&EndpointView| e.cap > 0 && e.in_flight >= u64::from(e.cap);
        Self {
            route: view.route.clone(),
            cluster: view.cluster.clone(),
            in_flight: view.in_flight,
            capacity: view.capacity,
            room: view.room(),
            endpoints: listed().count(),
            full: listed().filter(is_full).count(),
            drained: view.endpoints.iter().filter(|endpoint| endpoint.drained).count(),
            holders: view.holders,
            imbalance: view.imbalance,
            current: view.current,
            read_at_ms: view.read_at_ms,
        }
    }
}

/// All pools together.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Totals {
    pools: usize,
    endpoints: usize,
    drained: usize,
    in_flight: u64,
    /// `None` where any pool is unlimited.
    capacity: Option<u64>,
    /// Requests that still fit; likewise.
    room: Option<u64>,
    /// Of the pool that has most.
    holders: u64,
    /// `None` where it is not known at present.
    sidecars: Option<usize>,
}

/// What this sidecar is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SidecarRow {
    id: String,
    name: String,
    version: &'static str,
    started_at_ms: u64,
}

/// What it counts in.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoreRow {
    kind: StoreKind,
    up: bool,
}

/// A quota that is configured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QuotaRow {
    name: String,
    counts: limit::Counts,
    kind: &'static str,
}

/// The whole cluster at a glance.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Overview {
    now_ms: u64,
    interval_ms: u64,
    sidecar: SidecarRow,
    store: StoreRow,
    age_ms: u64,
    totals: Totals,
    /// `None` where it is not known at present.
    last_minute: Option<serde_json::Map<String, serde_json::Value>>,
    admin: bool,
    quotas: Vec<QuotaRow>,
    pools: Vec<PoolRow>,
    next_page_token: String,
    total: usize,
}

impl Overview {
    /// Whether anything but times differs.
    #[must_use]
    pub fn differs(&self, other: &Self) -> bool {
        let same_pools = self.pools.len() == other.pools.len()
            && (self.pools.iter().zip(&other.pools)).all(|(a, b)| {
                PoolRow { read_at_ms: 0, ..a.clone() } == PoolRow { read_at_ms: 0, ..b.clone() }
            });
        !same_pools
            || self.totals != other.totals
            || self.store != other.store
            || self.last_minute != other.last_minute
            || self.total != other.total
            || self.quotas != other.quotas
    }
}

impl Capacity {
    /// Pools of the last sweep at a glance.
    ///
    /// # Errors
    /// Where the page token is wrong.
    pub async fn overview(&self, sort: PoolSort, part: &Part) -> Result<Overview, DomainError> {
        let views = self.views.all();
        let mut rows: Vec<PoolRow> = views.values().map(|view| PoolRow::of(view)).collect();
        let capacities = rows.iter().map(|row| row.capacity);
        let totals = Totals {
            pools: rows.len(),
            endpoints: rows.iter().map(|row| row.endpoints).sum(),
            drained: rows.iter().map(|row| row.drained).sum(),
            in_flight: rows.iter().map(|row| row.in_flight).sum(),
            capacity: capacities.sum(),
            room: rows.iter().map(|row| row.room).sum(),
            holders: rows.iter().map(|row| row.holders).max().unwrap_or(0),
            sidecars: self.sidecars_alive().await,
        };
        rows.retain(|row| row.cluster.contains(&part.search) || row.route.contains(&part.search));
        sort_pools(&mut rows, sort);
        let Page { rows, next_page_token, total } = part.of(rows)?;
        Ok(Overview {
            now_ms: unix_ms(),
            interval_ms: self.keep_alive_interval.as_millis() as u64,
            sidecar: SidecarRow {
                id: self.about.id.clone(),
                name: self.balancer.recorder.name().to_owned(),
                version: env!("CARGO_PKG_VERSION"),
                started_at_ms: self.started_at_ms,
            },
            store: StoreRow { kind: self.about.store, up: self.balancer.store.is_up() },
            age_ms: self.views.age().as_millis() as u64,
            totals,
            last_minute: self.last_minute().await.as_ref().map(name_counts),
            admin: self.administration.admins.any(),
            quotas: self.quotas(),
            pools: rows,
            next_page_token,
            total,
        })
    }

    /// The overview of the last sweep, made once for all who watch.
    ///
    /// # Errors
    /// None at present.
    pub async fn watched(&self) -> Result<Arc<Overview>, DomainError> {
        let swept = self.views.swept_at();
        let mut known = self.watched.0.lock().await;
        if let Some((at, overview)) = &*known
            && *at == swept
        {
            return Ok(Arc::clone(overview));
        }
        let part = Part { size: WATCHED_POOLS, ..Part::default() };
        let overview = Arc::new(self.overview(PoolSort::default(), &part).await?);
        *known = Some((swept, Arc::clone(&overview)));
        Ok(overview)
    }

    async fn last_minute(&self) -> Option<Counts> {
        let Steps { counts, .. } = self.told(self.history.steps(60_000, None)).await.ok()?;
        let mut sum = [0; ADMIT_RESULTS];
        counts.iter().for_each(|counts| evenkeel_domain::activity::add(&mut sum, counts));
        Some(sum)
    }

    async fn sidecars_alive(&self) -> Option<usize> {
        let all = self.told(self.history.sidecars()).await.ok()?;
        // This one may not have told of itself yet.
        Some(all.iter().filter(|(_, alive)| *alive).count().max(1))
    }

    /// The pool of this name, as a gateway calls it or as it is listed.
    ///
    /// # Errors
    /// Where there is none.
    pub fn pool(&self, route: &str, cluster: &str) -> Result<Arc<PoolEntry>, DomainError> {
        self.balancer.directory.find(route, cluster)
    }

    /// One pool of the last sweep with its endpoints.
    ///
    /// # Errors
    /// Where there is none, or the page token is wrong.
    pub fn endpoints(
        &self,
        route: &str,
        cluster: &str,
        sort: EndpointSort,
        part: &Part,
    ) -> Result<(PoolRow, Page<EndpointView>), DomainError> {
        let entry = self.pool(route, cluster)?;
        let view = self.views.all().get(&entry.pool.id).map(Arc::clone);
        let view = view.ok_or_else(|| DomainError::NotFound {
            what: format!("pool of route {route:?} and cluster {cluster:?}"),
            hint: "it has not been swept yet; ask again in a second",
        })?;
        let mut endpoints: Vec<EndpointView> = view
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.address.contains(&part.search))
            .cloned()
            .collect();
        sort_endpoints(&mut endpoints, sort);
        Ok((PoolRow::of(&view), part.of(endpoints)?))
    }

    /// Keys of limits, fullest first, as they stand now.
    ///
    /// # Errors
    /// Where the store fails, or the page token is wrong.
    pub async fn nearest(&self, limit: &str, part: &Part) -> Result<Page<FullestKey>, DomainError> {
        let nearest = self.told(self.history.fullest_keys()).await?;
        let wanted = nearest.iter().filter(|nearest| {
            (limit.is_empty() || nearest.limit == limit)
                && (part.search.is_empty() || nearest.key().contains(&part.search))
        });
        let mut page = part.of(wanted.cloned().collect())?;
        self.limiter.refresh(&mut page.rows).await;
        page.rows.sort_by(|a, b| b.share().total_cmp(&a.share()));
        Ok(page)
    }

    /// Quotas, those that run out soonest first.
    ///
    /// # Errors
    /// Where the store fails, or the page token is wrong.
    pub async fn burns(&self, quota: &str, part: &Part) -> Result<Page<BurnRate>, DomainError> {
        let burns = self.told(self.history.burn_rates()).await?;
        let wanted = burns
            .iter()
            .filter(|burn| (quota.is_empty() || burn.quota == quota) && burn.consumer.contains(&part.search));
        part.of(wanted.cloned().collect())
    }

    /// What a limit counts; `None` where it is not configured any more.
    #[must_use]
    pub fn limit_counts(&self, name: &str) -> Option<limit::Counts> {
        self.rules.load().limits.iter().find(|limit| *limit.name == *name).map(|limit| limit.counts)
    }

    /// What a quota counts; `None` where it is not configured any more.
    #[must_use]
    pub fn quota_counts(&self, name: &str) -> Option<limit::Counts> {
        self.rules.load().quotas.iter().find(|quota| *quota.name == *name).map(|quota| quota.counts)
    }

    fn quotas(&self) -> Vec<QuotaRow> {
        self.rules
            .load()
            .quotas
            .iter()
            .map(|quota| QuotaRow {
                name: quota.name.to_string(),
                counts: quota.counts,
                kind: if quota.kind == QuotaKind::Prepaid { "prepaid" } else { "budget" },
            })
            .collect()
    }

    /// Whether a sidecar reaches the store: one that tells of itself does; of this one it is known.
    #[must_use]
    pub fn reaches_store(&self, status: &SidecarStatus, alive: bool) -> bool {
        if status.id == self.about.id { self.balancer.store.is_up() } else { alive }
    }

    /// What sidecars told; at once an error while the store is away.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn told<T>(
        &self,
        reading: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, DomainError> {
        let away = || StoreError::Unavailable("circuit open after earlier failures".to_owned());
        let told = if self.balancer.store.is_up() { reading.await } else { Err(away()) };
        told.map_err(DomainError::store("reading what sidecars told"))
    }
}

/// Requests by what became of them, and how many were admitted and refused.
#[must_use]
pub fn name_counts(counts: &Counts) -> serde_json::Map<String, serde_json::Value> {
    let (admitted, refused) = admitted_and_refused(counts);
    let named =
        AdmitResult::ALL.iter().zip(counts).map(|(result, n)| (result.name().to_owned(), (*n).into()));
    let sums = [("admitted".to_owned(), admitted.into()), ("refused".to_owned(), refused.into())];
    sums.into_iter().chain(named).collect()
}

fn sort_pools(rows: &mut [PoolRow], sort: PoolSort) {
    let by_name = |a: &PoolRow, b: &PoolRow| (&a.cluster, &a.route).cmp(&(&b.cluster, &b.route));
    rows.sort_by(|a, b| {
        let order = match sort {
            PoolSort::InFlight => b.in_flight.cmp(&a.in_flight),
            PoolSort::Name => Ordering::Equal,
            PoolSort::Room => a.room.unwrap_or(u64::MAX).cmp(&b.room.unwrap_or(u64::MAX)),
            PoolSort::Imbalance => b.imbalance.total_cmp(&a.imbalance),
        };
        order.then_with(|| by_name(a, b))
    });
}

fn sort_endpoints(endpoints: &mut [EndpointView], sort: EndpointSort) {
    let load = |e: &EndpointView| {
        let size = if e.cap > 0 { f64::from(e.cap) } else { e.weight.max(f64::MIN_POSITIVE) };
        e.in_flight as f64 / size
    };
    let room = |e: &EndpointView| {
        if e.cap > 0 { u64::from(e.cap).saturating_sub(e.in_flight) } else { u64::MAX }
    };
    endpoints.sort_by(|a, b| {
        let order = match sort {
            EndpointSort::Load => load(b).total_cmp(&load(a)),
            EndpointSort::InFlight => b.in_flight.cmp(&a.in_flight),
            EndpointSort::Address => Ordering::Equal,
            EndpointSort::Room => room(a).cmp(&room(b)),
        };
        order.then_with(|| a.address.cmp(&b.address))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(address: &str, in_flight: u64, cap: u32) -> EndpointView {
        EndpointView { address: address.into(), in_flight, weight: 1.0, cap, listed: true, drained: false }
    }

    #[test]
    fn endpoints_are_sorted_as_asked() {
        let sorted = |sort| {
            let mut list =
                [endpoint("c", 3, 0), endpoint("a", 2, 2), endpoint("b", 5, 100), endpoint("d", 0, 1)];
            sort_endpoints(&mut list, sort);
            list.map(|e| e.address.to_string()).concat()
        };
        assert_eq!(sorted(EndpointSort::Load), "cabd");
        assert_eq!(sorted(EndpointSort::InFlight), "bcad");
        assert_eq!(sorted(EndpointSort::Address), "abcd");
        assert_eq!(sorted(EndpointSort::Room), "adbc");
    }

    #[test]
    fn pools_are_sorted_as_asked() {
        let row = |cluster: &str, in_flight, capacity, imbalance| PoolRow {
            route: String::new(),
            cluster: cluster.to_owned(),
            in_flight,
            capacity,
            room: capacity.map(|capacity: u64| capacity.saturating_sub(in_flight)),
            endpoints: 1,
            full: 0,
            drained: 0,
            holders: 0,
            imbalance,
            current: true,
            read_at_ms: 0,
        };
        let sorted = |sort| {
            let mut rows = [row("b", 9, None, 0.0), row("a", 1, Some(2), 0.5), row("c", 5, Some(50), 0.1)];
            sort_pools(&mut rows, sort);
            rows.map(|row| row.cluster).concat()
        };
        assert_eq!(sorted(PoolSort::InFlight), "bca");
        assert_eq!(sorted(PoolSort::Name), "abc");
        assert_eq!(sorted(PoolSort::Room), "acb");
        assert_eq!(sorted(PoolSort::Imbalance), "acb");
    }

    #[test]
    fn counts_have_names() {
        let named = name_counts(&[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(
            (&named["admitted"], &named["refused"], &named["quota"]),
            (&6.into(), &30.into(), &7.into())
        );
        assert_eq!(named.len(), ADMIT_RESULTS + 2);
    }
}
