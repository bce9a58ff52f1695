//! Which gateways use this sidecar, and when no limits applied to their requests.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use evenkeel_domain::{
    HolderId,
    clock::unix_ms,
    gateway::{GapCounts, GatewayStatus, LimitGap, SHOWN_MS, short_name},
    shorten,
};
use parking_lot::Mutex;

/// Maximum length of a gateway's name, in bytes. A sidecar reports up to [`REPORTED_MAX`] names every second.
const NAME_BYTES_MAX: usize = 128;
/// Maximum number of gateways in one report.
const REPORTED_MAX: usize = 64;
/// Maximum number of workers that the sidecar follows: more than its connections. Further workers are not shown.
const WORKERS_MAX: usize = 65_536;

/// The requests that a worker sent on without an answer, as its list reports them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unanswered {
    /// Number of the period.
    pub period: u64,
    /// Time since the first and since the last request of the period.
    pub since_ms: u64,
    pub last_ms: u64,
    /// Requests of the period.
    pub requests: GapCounts,
    /// The part of `requests` that a sidecar has counted.
    pub reported: GapCounts,
}

/// The workers of gateways that use this sidecar, or have used it within [`SHOWN_MS`].
#[derive(Debug, Default)]
pub struct Gateways(Mutex<HashMap<HolderId, Worker>>);

#[derive(Debug, Default)]
struct Worker {
    gateway: Arc<str>,
    /// Number of open streams; more than one only while one replaces another.
    streams: u32,
    lost_at_ms: u64,
    seen_at_ms: u64,
    /// Number of the period in `unlimited`, and the requests of it that are counted.
    period: u64,
    counted: GapCounts,
    unlimited: Option<LimitGap>,
    local: Option<LimitGap>,
}

impl Gateways {
    /// Records that a worker has opened a stream. `node` is the name that the gateway sends.
    pub fn connected(&self, holder: &HolderId, node: &str) {
        self.change(holder, unix_ms(), |worker, _| {
            worker.gateway = shorten(short_name(node), NAME_BYTES_MAX).into();
            worker.streams += 1;
            worker.lost_at_ms = 0;
        });
    }

    /// Records the end of a stream. `is_lost`: the worker has neither said that it ends nor connected again.
    pub fn disconnected(&self, holder: &HolderId, is_lost: bool) {
        self.change(holder, unix_ms(), |worker, now_ms| {
            worker.streams = worker.streams.saturating_sub(1);
            if is_lost && worker.streams == 0 {
                worker.lost_at_ms = now_ms;
            }
        });
    }

    /// Records the requests that a worker sent on without an answer. Returns those that no sidecar has counted.
    pub fn unanswered(&self, holder: &HolderId, unanswered: &Unanswered) -> GapCounts {
        self.unanswered_at(holder, unanswered, unix_ms())
    }

    fn unanswered_at(&self, holder: &HolderId, unanswered: &Unanswered, now_ms: u64) -> GapCounts {
        let Unanswered { period, since_ms, last_ms, requests, reported } = *unanswered;
        self.change(holder, now_ms, |worker, now_ms| {
            let known = if worker.period == period { worker.counted } else { GapCounts::default() };
            // A list whose answer was lost has been counted, although the worker does not know.
            let counted = known.with(reported, u64::max);
            worker.period = period;
            worker.counted = counted.with(requests, u64::max);
            let last_at_ms = now_ms.saturating_sub(last_ms);
            let since_at_ms = now_ms.saturating_sub(since_ms).min(last_at_ms);
            worker.unlimited = Some(LimitGap { now: false, since_at_ms, last_at_ms, requests });
            requests.with(counted, u64::saturating_sub)
        })
        .unwrap_or_default()
    }

    /// Records that this sidecar has admitted a request without the shared store.
    pub fn without_store(&self, holder: &HolderId) {
        self.without_store_at(holder, unix_ms());
    }

    fn without_store_at(&self, holder: &HolderId, now_ms: u64) {
        self.change(holder, now_ms, |worker, now_ms| {
            let requests = GapCounts { without_store: 1, ..GapCounts::default() };
            let one = LimitGap { now: false, since_at_ms: now_ms, last_at_ms: now_ms, requests };
            worker.local = Some(worker.local.map_or(one, |gap| gap.join(one)));
        });
    }

    fn change<T>(
        &self,
        holder: &HolderId,
        now_ms: u64,
        change: impl FnOnce(&mut Worker, u64) -> T,
    ) -> Option<T> {
        let mut workers = self.0.lock();
        if workers.len() >= WORKERS_MAX && !workers.contains_key(holder) {
            forget_old(&mut workers, now_ms);
            if workers.len() >= WORKERS_MAX {
                return None;
            }
        }
        let worker = workers.entry(holder.clone()).or_default();
        worker.seen_at_ms = now_ms;
        Some(change(worker, now_ms))
    }

    /// Returns the gateways, those that need attention first, and the number of further gateways.
    #[must_use]
    pub fn statuses(&self) -> (Vec<GatewayStatus>, u64) {
        self.statuses_at(unix_ms())
    }

    fn statuses_at(&self, now_ms: u64) -> (Vec<GatewayStatus>, u64) {
        let mut gateways: BTreeMap<Arc<str>, GatewayStatus> = BTreeMap::new();
        {
            let mut workers = self.0.lock();
            forget_old(&mut workers, now_ms);
            for worker in workers.values() {
                let gateway = gateways.entry(Arc::clone(&worker.gateway)).or_default();
                gateway.join(&GatewayStatus {
                    name: String::new(),
                    workers: u64::from(worker.streams > 0),
                    lost_at_ms: worker.lost_at_ms,
                    unlimited: worker.unlimited.and_then(|gap| gap.at(now_ms)),
                    local: worker.local.and_then(|gap| gap.at(now_ms)),
                });
            }
        }
        let named =
            gateways.into_iter().map(|(name, status)| GatewayStatus { name: name.to_string(), ..status });
        let mut all: Vec<GatewayStatus> = named.filter(GatewayStatus::is_shown).collect();
        all.sort_by(|a, b| a.order().cmp(&b.order()));
        let unlisted = all.len().saturating_sub(REPORTED_MAX) as u64;
        all.truncate(REPORTED_MAX);
        (all, unlisted)
    }

    /// Returns the number of gateways whose requests pass without limits now.
    #[must_use]
    pub fn unlimited(&self) -> usize {
        let now_ms = unix_ms();
        let workers = self.0.lock();
        let is_unlimited =
            |worker: &&Worker| worker.unlimited.and_then(|gap| gap.at(now_ms)).is_some_and(|gap| gap.now);
        let names = workers.values().filter(is_unlimited).map(|worker| &worker.gateway);
        names.collect::<std::collections::HashSet<_>>().len()
    }
}

/// Forgets the workers that have been away for [`SHOWN_MS`].
fn forget_old(workers: &mut HashMap<HolderId, Worker>, now_ms: u64) {
    workers.retain(|_, worker| worker.streams > 0 || now_ms <= worker.seen_at_ms.saturating_add(SHOWN_MS));
}

#[cfg(test)]
mod tests {
    use evenkeel_domain::gateway::QUIET_MS;

    use super::*;

    const NOW: u64 = 1_000_000_000;

    fn holder(id: &str) -> HolderId {
        HolderId::new(id).unwrap()
    }

    fn late(late: u64) -> GapCounts {
        GapCounts { late, ..GapCounts::default() }
    }

    fn list(period: u64, requests: u64, reported: u64) -> Unanswered {
        Unanswered {
            period,
            since_ms: 5000,
            last_ms: 1000,
            requests: late(requests),
            reported: late(reported),
        }
    }

    /// The same requests stand in every list until the worker knows that a sidecar has counted them.
    #[test]
    fn each_request_counts_once() {
        let (here, there, h) = (Gateways::default(), Gateways::default(), holder("h"));
        let count = |gateways: &Gateways, list| gateways.unanswered_at(&h, &list, NOW).late;
        assert_eq!([count(&here, list(1, 3, 0)), count(&here, list(1, 3, 0))], [3, 0]);
        assert_eq!([count(&here, list(1, 5, 3)), count(&here, list(1, 5, 5))], [2, 0]);
        // The worker continues at another sidecar, and returns.
        assert_eq!([count(&there, list(1, 6, 5)), count(&here, list(1, 7, 6))], [1, 1]);
        assert_eq!([count(&here, list(2, 4, 0)), count(&here, list(2, 4, 0))], [4, 0]);
    }

    #[test]
    fn a_gateway_is_unlimited_until_it_is_quiet() {
        let gateways = Gateways::default();
        for (worker, requests) in [("a", 3), ("b", 4)] {
            gateways.connected(&holder(worker), "gateway-3");
            gateways.unanswered_at(&holder(worker), &list(1, requests, 0), NOW);
        }
        let gap = |now| LimitGap { now, since_at_ms: NOW - 5000, last_at_ms: NOW - 1000, requests: late(7) };
        let status = |now_ms| gateways.statuses_at(now_ms).0[0].clone();
        let expected = GatewayStatus {
            name: "gateway-3".into(),
            workers: 2,
            unlimited: Some(gap(true)),
            ..GatewayStatus::default()
        };
        assert_eq!(status(NOW), expected);
        assert_eq!(status(NOW + QUIET_MS).unlimited, Some(gap(false)));
        assert_eq!(status(NOW + SHOWN_MS).unlimited, None);
    }

    #[test]
    fn requests_without_the_store_are_one_gap_until_it_is_quiet() {
        let (gateways, h) = (Gateways::default(), holder("h"));
        for at in [NOW, NOW + 1, NOW + QUIET_MS] {
            gateways.without_store_at(&h, at);
        }
        let gap = gateways.statuses_at(NOW + QUIET_MS).0[0].local.unwrap();
        assert_eq!((gap.now, gap.since_at_ms, gap.requests.without_store), (true, NOW, 3));
        gateways.without_store_at(&h, NOW + 3 * QUIET_MS);
        let gap = gateways.statuses_at(NOW + 3 * QUIET_MS).0[0].local.unwrap();
        assert_eq!((gap.since_at_ms, gap.requests.without_store), (NOW + 3 * QUIET_MS, 1));
    }

    #[test]
    fn a_lost_worker_is_shown_and_one_that_ends_is_not() {
        let gateways = Gateways::default();
        let lost_at = || gateways.statuses().0.iter().map(|status| status.lost_at_ms > 0).collect::<Vec<_>>();
        gateways.connected(&holder("a"), "g");
        gateways.connected(&holder("a"), "g");
        gateways.disconnected(&holder("a"), true);
        assert_eq!(lost_at(), [false], "the worker has another stream");
        gateways.disconnected(&holder("a"), true);
        assert_eq!(lost_at(), [true]);
        gateways.connected(&holder("a"), "g");
        gateways.disconnected(&holder("a"), false);
        assert!(lost_at().is_empty());
        assert!(gateways.statuses_at(unix_ms() + 2 * SHOWN_MS).0.is_empty() && gateways.0.lock().is_empty());
    }

    #[test]
    fn a_report_is_bounded_and_begins_with_the_gateways_that_need_attention() {
        let gateways = Gateways::default();
        for i in 0..REPORTED_MAX + 9 {
            gateways.connected(&holder(&format!("h{i}")), &format!("g{i:03}"));
        }
        gateways.disconnected(&holder("h70"), true);
        gateways.without_store(&holder("h71"));
        gateways.unanswered(&holder("h72"), &list(1, 1, 0));
        let (listed, unlisted) = gateways.statuses();
        let names: Vec<&str> = listed.iter().map(|status| status.name.as_str()).collect();
        assert_eq!(
            (names.len(), unlisted, &names[..4]),
            (REPORTED_MAX, 9, &["g072", "g071", "g070", "g000"][..])
        );
        assert_eq!(gateways.unlimited(), 1);
    }
}
