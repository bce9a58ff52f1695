//! What operators see of the gateways: whether they are connected, and when no limits applied to their requests.

use serde::{Deserialize, Serialize};

/// A period without limits ends when this time has passed since its last request, in ms. Gateways use the same time.
pub const QUIET_MS: u64 = 30_000;
/// How long a gateway or a period is shown after its end, in ms.
pub const SHOWN_MS: u64 = 600_000;

/// Requests to which no limits applied, or not those that all sidecars share, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapCounts {
    /// The gateway reached no sidecar.
    pub unreachable: u64,
    /// The sidecar's answer did not come in time.
    pub late: u64,
    /// The sidecar answered with an error.
    pub failed: u64,
    /// The sidecar admitted the request without the shared store.
    pub without_store: u64,
}

impl GapCounts {
    #[must_use]
    pub fn total(self) -> u64 {
        let Self { unreachable, late, failed, without_store } = self;
        [unreachable, late, failed, without_store].into_iter().fold(0, u64::saturating_add)
    }

    /// Applies a function to the counts of each cause.
    #[must_use]
    pub fn with(self, other: Self, join: fn(u64, u64) -> u64) -> Self {
        Self {
            unreachable: join(self.unreachable, other.unreachable),
            late: join(self.late, other.late),
            failed: join(self.failed, other.failed),
            without_store: join(self.without_store, other.without_store),
        }
    }
}

/// A period in which no limits applied to requests, or not those that all sidecars share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitGap {
    /// Whether the period continues.
    pub now: bool,
    /// Time of the first request, in ms since the Unix epoch.
    pub since_at_ms: u64,
    /// Time of the last request, in ms since the Unix epoch.
    pub last_at_ms: u64,
    pub requests: GapCounts,
}

impl LimitGap {
    /// Returns the gap as of `now_ms`, or `None` if it ended too long ago to be shown.
    #[must_use]
    pub fn at(self, now_ms: u64) -> Option<Self> {
        let now = now_ms <= self.last_at_ms.saturating_add(QUIET_MS);
        (now_ms <= self.last_at_ms.saturating_add(SHOWN_MS)).then_some(Self { now, ..self })
    }

    /// Joins the gaps of two workers of a gateway. If they do not overlap, returns the later.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        let (first, second) = if self.last_at_ms <= other.last_at_ms { (self, other) } else { (other, self) };
        if second.since_at_ms > first.last_at_ms.saturating_add(QUIET_MS) {
            return second;
        }
        Self {
            now: first.now || second.now,
            since_at_ms: first.since_at_ms.min(second.since_at_ms),
            last_at_ms: second.last_at_ms,
            requests: first.requests.with(second.requests, u64::saturating_add),
        }
    }
}

/// The state of a gateway at one sidecar, or at all sidecars.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayStatus {
    /// Empty for gateways that send no name.
    pub name: String,
    /// Number of connected workers.
    pub workers: u64,
    /// Time when the last connection broke, in ms since the Unix epoch. 0: none has broken, or a worker is connected.
    pub lost_at_ms: u64,
    /// Requests that went on without an answer of a sidecar.
    pub unlimited: Option<LimitGap>,
    /// Requests that a sidecar admitted without the shared store.
    pub local: Option<LimitGap>,
}

impl GatewayStatus {
    /// Joins what is known of one gateway.
    pub fn join(&mut self, other: &Self) {
        self.workers += other.workers;
        self.lost_at_ms = if self.workers > 0 { 0 } else { self.lost_at_ms.max(other.lost_at_ms) };
        for (gap, more) in [(&mut self.unlimited, other.unlimited), (&mut self.local, other.local)] {
            *gap = match (*gap, more) {
                (Some(gap), Some(more)) => Some(gap.join(more)),
                (gap, more) => gap.or(more),
            };
        }
    }

    /// Returns whether requests pass without limits now, and whether some are admitted without the shared store now.
    fn gaps_now(&self) -> [bool; 2] {
        [self.unlimited, self.local].map(|gap| gap.is_some_and(|gap| gap.now))
    }

    /// Returns whether a period without limits, or without those that all sidecars share, continues.
    #[must_use]
    pub fn has_gap(&self) -> bool {
        self.gaps_now().contains(&true)
    }

    /// Returns whether there is anything to show.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        self.workers > 0 || self.lost_at_ms > 0 || self.unlimited.is_some() || self.local.is_some()
    }

    /// Returns a key that sorts the gateways that need attention first, and then by name.
    #[must_use]
    pub fn order(&self) -> (bool, bool, bool, &str) {
        let [is_unlimited, is_local] = self.gaps_now();
        (!is_unlimited, !is_local, self.lost_at_ms == 0, &self.name)
    }
}

/// Returns the name of a gateway that operators recognize. Istio's node id consists of a type, an address, the pod with
/// its namespace, and a domain, with `~` between them.
#[must_use]
pub fn short_name(node: &str) -> &str {
    match node.split('~').collect::<Vec<_>>()[..] {
        [_, _, pod, _] if !pod.is_empty() => pod,
        _ => node,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(since_at_ms: u64, last_at_ms: u64, late: u64) -> LimitGap {
        let requests = GapCounts { late, ..GapCounts::default() };
        LimitGap { now: false, since_at_ms, last_at_ms, requests }
    }

    #[test]
    fn a_gap_ends_after_quiet_and_is_shown_for_a_while() {
        let gap = gap(1000, 2000, 1);
        assert!(gap.at(2000 + QUIET_MS).is_some_and(|gap| gap.now));
        assert!(gap.at(2001 + QUIET_MS).is_some_and(|gap| !gap.now));
        assert!(gap.at(2000 + SHOWN_MS).is_some() && gap.at(2001 + SHOWN_MS).is_none());
    }

    #[test]
    fn gaps_of_workers_join_if_they_overlap() {
        let (a, b) = (gap(1000, 5000, 3), gap(500, 2000, 4));
        assert_eq!(a.join(b), gap(500, 5000, 7));
        assert_eq!(b.join(a), a.join(b));
        let later = gap(5001 + QUIET_MS, 6000 + QUIET_MS, 2);
        assert_eq!((a.join(later), later.join(a)), (later, later));
    }

    #[test]
    fn a_gateway_with_a_connected_worker_is_not_lost() {
        let mut lost = GatewayStatus { lost_at_ms: 7, ..GatewayStatus::default() };
        lost.join(&GatewayStatus { lost_at_ms: 9, ..GatewayStatus::default() });
        assert_eq!(lost.lost_at_ms, 9);
        lost.join(&GatewayStatus { workers: 2, unlimited: Some(gap(1, 2, 3)), ..GatewayStatus::default() });
        assert_eq!((lost.workers, lost.lost_at_ms, lost.unlimited), (2, 0, Some(gap(1, 2, 3))));
    }

    #[test]
    fn a_node_id_of_istio_is_shortened_to_its_pod() {
        for (node, expected) in [
            (
                "router~10.0.0.7~gateway-5d4.istio-system~istio-system.svc.cluster.local",
                "gateway-5d4.istio-system",
            ),
            ("gateway-3", "gateway-3"),
            ("a~b", "a~b"),
            ("a~b~~d", "a~b~~d"),
            ("", ""),
        ] {
            assert_eq!(short_name(node), expected);
        }
    }
}
