//! The data that `top` shows, and the sort orders of its lists.

use std::{
    cmp::{Ordering, Reverse},
    collections::BTreeMap,
    time::{Duration, Instant},
};

use evenkeel_proto::v1 as pb;

use super::feed::News;

/// Time in which a new watch sends all pools. After it, pools that the watch has not sent are removed.
const TOLD_WITHIN: Duration = Duration::from_secs(3);

/// A pool's identity: cluster, then route. Lists sorted by name use the same order.
pub(super) type Key = (String, String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Load,
    InFlight,
    Name,
    Imbalance,
    Room,
}

impl Sort {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::InFlight => "in flight",
            Self::Name => "name",
            Self::Imbalance => "imbalance",
            Self::Room => "room",
        }
    }
}

/// Totals over all pools.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Totals {
    pub(super) in_flight: u64,
    /// Sum of the pools' capacities. `None` if a pool is unlimited.
    pub(super) capacity: Option<u64>,
    pub(super) pools: usize,
    pub(super) endpoints: usize,
    pub(super) drained: usize,
    pub(super) full: usize,
}

/// A pool, and the number of the watch that sent it.
struct Known {
    state: pb::PoolState,
    watch: u64,
}

#[derive(Default)]
pub(super) struct Model {
    pools: BTreeMap<Key, Known>,
    /// Number of watches started, and the start of the last watch.
    watch: u64,
    begun: Option<Instant>,
    /// Time of the sidecar's last message.
    pub(super) seen: Option<Instant>,
    /// Time since which the sidecar has not answered, and the reason.
    pub(super) lost: Option<(Instant, String)>,
    /// `None` if the sidecar has not reported them.
    pub(super) sidecars: Option<Vec<pb::SidecarState>>,
    /// Number of gateways whose requests pass without limits.
    pub(super) unlimited: usize,
    /// Requests admitted and refused per second; `None` if unknown.
    pub(super) rates: Option<(f64, f64)>,
}

impl Model {
    pub(super) fn hear(&mut self, news: News, now: Instant) {
        match news {
            News::Lost(why) => {
                let since = self.lost.take().map_or(now, |(since, _)| since);
                self.lost = Some((since, why));
                self.begun = None;
                return;
            }
            News::Begun => {
                (self.lost, self.begun) = (None, Some(now));
                self.watch += 1;
            }
            News::Pool(state) => {
                let key = (state.cluster.clone(), state.route.clone());
                self.pools.insert(key, Known { state: *state, watch: self.watch });
            }
            News::Sidecars(sidecars) => self.sidecars = sidecars,
            News::Unlimited(gateways) => self.unlimited = gateways,
            News::Activity(activity) => self.rates = activity.as_ref().and_then(rates),
        }
        self.seen = Some(now);
    }

    /// Removes pools that the current watch has not sent within [`TOLD_WITHIN`].
    pub(super) fn tidy(&mut self, now: Instant) {
        if self.begun.is_some_and(|begun| now.duration_since(begun) >= TOLD_WITHIN) {
            let watch = self.watch;
            self.pools.retain(|_, known| known.watch == watch);
        }
    }

    pub(super) fn pool(&self, key: &Key) -> Option<&pb::PoolState> {
        self.pools.get(key).map(|known| &known.state)
    }

    /// Returns the first pool by name.
    pub(super) fn first(&self) -> Option<&Key> {
        self.pools.keys().next()
    }

    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals { capacity: Some(0), ..Totals::default() };
        for Known { state, .. } in self.pools.values() {
            totals.in_flight += state.in_flight;
            totals.capacity = totals.capacity.zip(state.capacity).map(|(sum, n)| sum + n);
            totals.pools += 1;
            totals.endpoints += state.endpoints.len();
            totals.drained += state.endpoints.iter().filter(|endpoint| endpoint.drained).count();
            totals.full += full(state);
        }
        totals.capacity = totals.capacity.filter(|capacity| *capacity > 0);
        totals
    }

    /// Returns whether the store is up; `None` if unknown.
    pub(super) fn store_up(&self) -> Option<bool> {
        let alive = self.sidecars.iter().flatten().filter(|sidecar| sidecar.alive);
        let known = self.pools.values().map(|known| known.state.current).chain(alive.map(|s| s.store_up));
        known.reduce(|all, up| all && up)
    }

    /// Returns the pools whose name contains `filter`, sorted.
    pub(super) fn pools(&self, sort: Sort, filter: &str) -> Vec<(&Key, &pb::PoolState)> {
        let filter = filter.to_lowercase();
        let matches = |(cluster, route): &Key| {
            [cluster, route].iter().any(|name| name.to_lowercase().contains(&filter))
        };
        let mut pools: Vec<_> = self.pools.iter().map(|(key, known)| (key, &known.state)).collect();
        pools.retain(|(key, _)| filter.is_empty() || matches(key));
        // The map is sorted by name, and a stable sort keeps that order among equal pools.
        match sort {
            Sort::Load => pools.sort_by(|(_, a), (_, b)| most(pool_load(a), pool_load(b))),
            Sort::InFlight => pools.sort_by_key(|(_, state)| Reverse(state.in_flight)),
            Sort::Imbalance => pools.sort_by(|(_, a), (_, b)| most(a.imbalance, b.imbalance)),
            Sort::Room => pools.sort_by_key(|(_, state)| {
                state.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(state.in_flight))
            }),
            Sort::Name => {}
        }
        pools
    }
}

/// Returns the endpoints whose address contains `filter`, sorted.
pub(super) fn endpoints<'a>(
    state: &'a pb::PoolState,
    sort: Sort,
    filter: &str,
) -> Vec<&'a pb::EndpointState> {
    let mut endpoints: Vec<_> = state.endpoints.iter().filter(|e| e.address.contains(filter)).collect();
    endpoints.sort_by(|a, b| a.address.cmp(&b.address));
    match sort {
        Sort::Load | Sort::Imbalance => endpoints.sort_by(|a, b| most(endpoint_load(a), endpoint_load(b))),
        Sort::InFlight => endpoints.sort_by_key(|endpoint| Reverse(endpoint.in_flight)),
        Sort::Room => endpoints.sort_by_key(|endpoint| match endpoint.cap {
            0 => u64::MAX,
            cap => u64::from(cap).saturating_sub(endpoint.in_flight),
        }),
        Sort::Name => {}
    }
    endpoints
}

fn most(a: f64, b: f64) -> Ordering {
    b.total_cmp(&a)
}

/// Returns a pool's requests in flight divided by its capacity. An unlimited pool gets a smaller value than every
/// limited pool that has requests in flight.
fn pool_load(state: &pb::PoolState) -> f64 {
    if let Some(capacity) = state.capacity.filter(|capacity| *capacity > 0) {
        return state.in_flight as f64 / capacity as f64;
    }
    // This is less than any load above 0 of a limited pool. It sorts unlimited pools by requests in flight.
    1e-12 * state.in_flight as f64
}

/// Returns requests in flight divided by the cap, or by the weight if there is no cap.
fn endpoint_load(endpoint: &pb::EndpointState) -> f64 {
    let by = if endpoint.cap > 0 { f64::from(endpoint.cap) } else { endpoint.weight };
    if by > 0.0 { endpoint.in_flight as f64 / by } else { 0.0 }
}

/// Counts the endpoints at their cap.
pub(super) fn full(state: &pb::PoolState) -> usize {
    state.endpoints.iter().filter(|e| e.cap > 0 && e.in_flight >= u64::from(e.cap)).count()
}

/// Returns requests admitted and refused per second, over the last complete step.
fn rates(activity: &pb::GetActivityResponse) -> Option<(f64, f64)> {
    let [.., whole, _] = activity.steps.as_slice() else { return None };
    let seconds = activity.step_ms as f64 / 1000.0;
    (seconds > 0.0).then(|| (whole.admitted as f64 / seconds, whole.refused as f64 / seconds))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn endpoint(address: &str, in_flight: u64, cap: u32) -> pb::EndpointState {
        pb::EndpointState {
            address: address.into(),
            in_flight,
            weight: 1.0,
            cap,
            listed: true,
            drained: false,
            unread_tokens: 0,
            hit_rate: None,
            expected_hit_rate: None,
        }
    }

    pub(in super::super) fn pool(cluster: &str, endpoints: Vec<pb::EndpointState>) -> pb::PoolState {
        let unlimited = endpoints.iter().any(|endpoint| endpoint.cap == 0);
        let capacity = endpoints.iter().map(|endpoint| u64::from(endpoint.cap)).sum();
        pb::PoolState {
            cluster: cluster.into(),
            in_flight: endpoints.iter().map(|endpoint| endpoint.in_flight).sum(),
            capacity: (!unlimited).then_some(capacity),
            endpoints,
            current: true,
            ..pb::PoolState::default()
        }
    }

    pub(in super::super) fn model_of(pools: Vec<pb::PoolState>, now: Instant) -> Model {
        let mut model = Model::default();
        model.hear(News::Begun, now);
        pools.into_iter().for_each(|state| model.hear(News::Pool(Box::new(state)), now));
        model
    }

    fn names(pools: &[(&Key, &pb::PoolState)]) -> String {
        pools.iter().map(|((cluster, _), _)| cluster.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn pools_are_sorted_as_requested() {
        let a = pool("a", vec![endpoint("x", 1, 4)]);
        let b = pool("b", vec![endpoint("x", 6, 8), endpoint("y", 0, 8)]);
        let open = pool("open", vec![endpoint("x", 100, 0)]);
        let model = model_of(vec![a, b, open], Instant::now());
        assert_eq!(names(&model.pools(Sort::Load, "")), "b a open");
        assert_eq!(names(&model.pools(Sort::InFlight, "")), "open b a");
        assert_eq!(names(&model.pools(Sort::Name, "")), "a b open");
        assert_eq!(names(&model.pools(Sort::Room, "")), "a b open");
        assert_eq!(names(&model.pools(Sort::Load, "OP")), "open");
        let totals = model.totals();
        assert_eq!((totals.in_flight, totals.capacity, totals.endpoints), (107, None, 4));
    }

    #[test]
    fn endpoints_are_sorted_as_requested() {
        let state = pool("a", vec![endpoint("x", 4, 16), endpoint("y", 3, 4), endpoint("z", 5, 0)]);
        let order = |sort| endpoints(&state, sort, "").iter().map(|e| e.address.as_str()).collect::<String>();
        assert_eq!([order(Sort::Load), order(Sort::InFlight)], ["zyx", "zxy"]);
        assert_eq!([order(Sort::Name), order(Sort::Room)], ["xyz", "yxz"]);
        assert_eq!(endpoints(&state, Sort::Name, "y").len(), 1);
    }

    #[test]
    fn a_pool_that_a_new_watch_does_not_send_disappears() {
        let start = Instant::now();
        let mut model = model_of(vec![pool("old", vec![]), pool("kept", vec![])], start);
        model.hear(News::Lost("refused".into()), start);
        model.hear(News::Lost("refused again".into()), start + Duration::from_secs(9));
        assert_eq!(model.lost, Some((start, "refused again".to_owned())), "the time of the first loss stays");
        model.tidy(start + Duration::from_secs(99));
        assert_eq!(model.totals().pools, 2, "the last figures stay while the sidecar does not answer");
        let back = start + Duration::from_secs(100);
        model.hear(News::Begun, back);
        model.hear(News::Pool(Box::new(pool("kept", vec![]))), back);
        model.tidy(back + Duration::from_secs(1));
        assert_eq!((model.totals().pools, model.lost.is_none()), (2, true));
        model.tidy(back + TOLD_WITHIN);
        assert_eq!(names(&model.pools(Sort::Name, "")), "kept");
    }

    #[test]
    fn rates_are_those_of_the_last_whole_step() {
        let step = |admitted, refused| pb::ActivityStep { admitted, refused, ..pb::ActivityStep::default() };
        let steps = vec![step(1, 1), step(50, 5), step(7, 7)];
        let mut activity = pb::GetActivityResponse { step_ms: 10_000, steps };
        assert_eq!(rates(&activity), Some((5.0, 0.5)));
        activity.steps.truncate(1);
        assert_eq!(rates(&activity), None);
        let mut model = Model::default();
        assert_eq!(model.store_up(), None);
        let away = pb::SidecarState { alive: true, ..pb::SidecarState::default() };
        model.hear(News::Sidecars(Some(vec![away])), Instant::now());
        assert_eq!(model.store_up(), Some(false));
    }
}
