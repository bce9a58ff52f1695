//! The order of a stream. Settlements and cancellations wait for the admission of their lease. A list waits for the
//! settlements and cancellations before it, and those after a list wait for the list. Admissions wait for nothing.

use std::collections::{HashMap, HashSet, VecDeque};

use evenkeel_domain::{LEASE_MAX, LeaseId, PoolId};
use evenkeel_engine::admission::keep_alive::HolderList;

use super::decode::Settlement;

/// Maximum number of pools that a goodbye releases: as many as a list may contain.
const POOLS_MAX: usize = 4096;

/// Something to do in its order.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all work has this variant, and a box would cost an allocation"
)]
pub(super) enum Work {
    Settle(Settlement),
    /// Gives back what an admission took.
    Cancel(LeaseId),
    List(HolderList),
    /// Releases all leases of the holder.
    Goodbye,
}

/// Something to do now.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all work has this variant, and a box would cost an allocation"
)]
pub(super) enum Step {
    Settle(Settlement),
    Release {
        lease: LeaseId,
        /// `None` if the admission belongs to an earlier stream.
        pool: Option<PoolId>,
    },
    List(HolderList),
    /// Contains all pools that the worker has used.
    Goodbye(Vec<PoolId>),
}

#[derive(Default)]
struct Pending {
    pool: Option<PoolId>,
    /// Whether the worker no longer waits for the answer.
    cancelled: bool,
    /// Work that waits for the admission.
    parked: Vec<Work>,
}

/// The work of one stream that has not ended.
#[derive(Default)]
pub(super) struct Order {
    pending: HashMap<LeaseId, Pending>,
    /// Number of pending admissions whose answer nobody waits for.
    cancelled: usize,
    /// Leases that were granted on this stream, with their pools.
    granted: HashMap<LeaseId, PoolId>,
    pools: HashSet<PoolId>,
    /// Work whose admission has ended.
    ready: VecDeque<Work>,
    /// Work behind a list, or not looked at yet.
    queue: VecDeque<Work>,
    /// Number of lists in `queue`.
    lists: usize,
    /// Number of settlements and cancellations that are in progress or wait for an admission.
    active: usize,
    listing: bool,
}

impl Order {
    /// Number of admissions whose answer the worker waits for.
    pub(super) fn awaited(&self) -> usize {
        self.pending.len() - self.cancelled
    }

    /// Number of admissions that have not ended.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Number of settlements and cancellations that have not ended.
    pub(super) fn work(&self) -> usize {
        self.queue.len() + self.active
    }

    /// Number of lists that wait.
    pub(super) fn lists(&self) -> usize {
        self.lists
    }

    /// Number of leases that were granted on this stream and have not ended.
    pub(super) fn granted(&self) -> usize {
        self.granted.len()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.work() == 0 && !self.listing
    }

    /// Registers an admission that starts now. Returns false if an admission of this lease is in progress.
    pub(super) fn admission(&mut self, lease: LeaseId, pool: Option<PoolId>) -> bool {
        if self.pending.contains_key(&lease) {
            return false;
        }
        if let Some(pool) = &pool {
            self.used(pool);
        }
        self.pending.insert(lease, Pending { pool, ..Pending::default() });
        true
    }

    /// Ends an admission. Returns whether the worker waits for the answer.
    pub(super) fn admission_ended(&mut self, lease: LeaseId, is_granted: bool) -> bool {
        let Some(Pending { pool, cancelled, parked }) = self.pending.remove(&lease) else { return false };
        if let Some(pool) = pool.filter(|_| is_granted) {
            self.granted.insert(lease, pool);
        }
        self.cancelled -= usize::from(cancelled);
        self.ready.extend(parked);
        !cancelled
    }

    /// Adds work after all earlier work.
    pub(super) fn push(&mut self, work: Work) {
        match &work {
            // The answer must not leave, even if the cancellation itself has to wait.
            Work::Cancel(lease) => {
                if let Some(pending) = self.pending.get_mut(lease).filter(|pending| !pending.cancelled) {
                    pending.cancelled = true;
                    self.cancelled += 1;
                }
            }
            Work::List(list) => {
                self.lists += 1;
                for (pool, _) in &list.pools {
                    self.used(pool);
                }
            }
            Work::Settle(_) | Work::Goodbye => {}
        }
        self.queue.push_back(work);
    }

    fn used(&mut self, pool: &PoolId) {
        if !self.pools.contains(pool) && self.pools.len() < POOLS_MAX {
            self.pools.insert(pool.clone());
        }
    }

    /// Ends a settlement or cancellation.
    pub(super) fn work_ended(&mut self) {
        self.active -= 1;
    }

    /// Ends a list, which lets the work behind it start.
    pub(super) fn list_ended(&mut self) {
        self.listing = false;
    }

    /// Drops the lists that wait, because a newer stream of the holder may already have sent a newer list.
    pub(super) fn drop_lists(&mut self) {
        self.queue.retain(|work| !matches!(work, Work::List(_) | Work::Goodbye));
        self.lists = 0;
    }

    /// Returns the next step that may start now. A caller takes all steps before it waits.
    pub(super) fn next(&mut self) -> Option<Step> {
        while let Some(work) = self.ready.pop_front() {
            match work {
                // The admission has ended on this stream, and took nothing.
                Work::Cancel(lease) if !self.granted.contains_key(&lease) => self.active -= 1,
                work => return Some(self.start(work)),
            }
        }
        while !self.listing {
            let waits = match self.queue.front()? {
                Work::List(_) | Work::Goodbye => self.active > 0,
                Work::Settle(_) | Work::Cancel(_) => false,
            };
            if waits {
                return None;
            }
            let work = self.queue.pop_front()?;
            let lease = match &work {
                Work::Settle(settlement) => Some(settlement.lease),
                Work::Cancel(lease) => Some(*lease),
                Work::List(_) | Work::Goodbye => None,
            };
            match lease {
                Some(lease) => {
                    if let Some(pending) = self.pending.get_mut(&lease) {
                        pending.parked.push(work);
                        self.active += 1;
                        continue;
                    }
                    self.active += 1;
                    return Some(self.start(work));
                }
                None => {
                    self.listing = true;
                    return Some(self.start(work));
                }
            }
        }
        None
    }

    fn start(&mut self, work: Work) -> Step {
        match work {
            Work::Settle(settlement) => {
                self.granted.remove(&settlement.lease);
                Step::Settle(settlement)
            }
            Work::Cancel(lease) => Step::Release { lease, pool: self.granted.remove(&lease) },
            Work::List(list) => {
                self.lists -= 1;
                self.forget_ended(&list);
                Step::List(list)
            }
            Work::Goodbye => Step::Goodbye(self.pools.iter().cloned().collect()),
        }
    }

    /// Forgets granted leases that the list lacks.
    fn forget_ended(&mut self, list: &HolderList) {
        if self.granted.is_empty() {
            return;
        }
        let issued_through = list.pools.first().map_or(0, |(_, held)| held.issued_through).min(LEASE_MAX);
        let listed: HashSet<LeaseId> =
            list.pools.iter().flat_map(|(_, held)| held.leases.iter().map(|lease| lease.id)).collect();
        self.granted.retain(|lease, _| lease.get() > issued_through || listed.contains(lease));
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_domain::HolderId;
    use evenkeel_proto::v1::{Pool, SettleRequest};
    use evenkeel_store::{Held, HeldLease};

    use super::*;

    fn lease(number: u64) -> LeaseId {
        LeaseId::new(number).unwrap()
    }

    fn pool() -> PoolId {
        PoolId::new("", "llm").unwrap()
    }

    fn settle(number: u64) -> Work {
        let (pool, request) = (Pool::default(), SettleRequest::default());
        Work::Settle(Settlement { number, lease: lease(number), pool, request, charge: None })
    }

    fn list(issued_through: u64, leases: &[u64]) -> Work {
        let entry = |number: &u64| HeldLease { id: lease(*number), endpoint: None, unread: 0 };
        let leases = leases.iter().map(entry).collect();
        let pools = vec![(pool(), Held { issued_through, leases, ..Held::default() })];
        Work::List(HolderList {
            holder: HolderId::new("h").unwrap(),
            pools,
            tickets: Vec::new(),
            unanswered: None,
        })
    }

    /// Takes all steps that may start, as `s7` for the settlement of lease 7, `r7` for its release, `f7` if its pool is
    /// unknown, `l` for a list and `g` for a goodbye.
    fn steps(order: &mut Order) -> String {
        let names = std::iter::from_fn(|| order.next()).map(|step| match step {
            Step::Settle(settlement) => format!("s{}", settlement.lease),
            Step::Release { lease, pool: Some(_) } => format!("r{lease}"),
            Step::Release { lease, pool: None } => format!("f{lease}"),
            Step::List(_) => "l".to_owned(),
            Step::Goodbye(pools) => format!("g{}", pools.len()),
        });
        names.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_settlement_waits_for_its_admission_only() {
        let mut order = Order::default();
        assert!(order.admission(lease(1), Some(pool())));
        assert!(!order.admission(lease(1), Some(pool())), "in progress");
        order.push(settle(1));
        order.push(settle(2));
        assert_eq!(steps(&mut order), "s2");
        assert!(order.admission_ended(lease(1), true), "the worker waits for the answer");
        assert_eq!(steps(&mut order), "s1");
        order.work_ended();
        order.work_ended();
        assert!(order.is_idle() && order.granted() == 0);
    }

    #[test]
    fn a_list_is_a_barrier_between_settlements() {
        let mut order = Order::default();
        order.admission(lease(1), Some(pool()));
        for work in [settle(1), list(3, &[3]), settle(2), list(3, &[3]), settle(3)] {
            order.push(work);
        }
        assert_eq!(steps(&mut order), "", "the list waits for the settlement, and that for its admission");
        order.admission_ended(lease(1), true);
        assert_eq!(steps(&mut order), "s1");
        order.work_ended();
        assert_eq!(steps(&mut order), "l");
        assert_eq!(steps(&mut order), "", "the list is in progress");
        order.list_ended();
        assert_eq!(steps(&mut order), "s2");
        order.work_ended();
        assert_eq!(steps(&mut order), "l");
        // An admission does not wait for a list, and its settlement does.
        assert!(order.admission(lease(4), Some(pool())));
        order.push(settle(4));
        order.list_ended();
        assert_eq!(steps(&mut order), "s3");
        order.admission_ended(lease(4), true);
        assert_eq!(steps(&mut order), "s4");
    }

    #[test]
    fn a_cancelled_admission_has_no_answer_and_is_released() {
        let mut order = Order::default();
        // The second admission takes nothing.
        for (number, is_granted, released) in [(1, true, "r1"), (2, false, "")] {
            order.admission(lease(number), Some(pool()));
            order.push(Work::Cancel(lease(number)));
            assert_eq!((order.awaited(), order.pending()), (0, 1));
            assert_eq!(steps(&mut order), "");
            assert!(!order.admission_ended(lease(number), is_granted));
            assert_eq!(steps(&mut order), released);
        }
        order.work_ended();
        // The answer and the cancellation may cross.
        order.admission(lease(3), Some(pool()));
        assert!(order.admission_ended(lease(3), true));
        order.push(Work::Cancel(lease(3)));
        // The admission of lease 9 was asked on an earlier stream.
        order.push(Work::Cancel(lease(9)));
        assert_eq!(steps(&mut order), "r3 f9");
        order.work_ended();
        order.work_ended();
        assert!(order.is_idle());
    }

    /// Guards against a cancellation that waits behind a list while the answer leaves.
    #[test]
    fn a_cancellation_behind_a_list_stops_the_answer() {
        let mut order = Order::default();
        order.push(list(0, &[]));
        assert_eq!(steps(&mut order), "l");
        order.admission(lease(1), Some(pool()));
        order.push(Work::Cancel(lease(1)));
        assert!(!order.admission_ended(lease(1), true));
        assert_eq!(steps(&mut order), "");
        order.list_ended();
        assert_eq!(steps(&mut order), "r1");
    }

    #[test]
    fn granted_leases_are_forgotten_when_a_list_lacks_them() {
        let mut order = Order::default();
        for number in 1..=4 {
            order.admission(lease(number), Some(pool()));
            order.admission_ended(lease(number), true);
        }
        order.push(list(3, &[2]));
        steps(&mut order);
        let mut granted: Vec<u64> = order.granted.keys().map(|lease| lease.get()).collect();
        granted.sort_unstable();
        assert_eq!(granted, [2, 4]);
    }

    #[test]
    fn a_goodbye_is_last_and_names_all_pools() {
        let mut order = Order::default();
        order.admission(lease(1), Some(PoolId::new("r", "other").unwrap()));
        order.push(list(1, &[1]));
        order.push(settle(1));
        order.push(Work::Goodbye);
        assert_eq!(steps(&mut order), "l");
        order.list_ended();
        assert_eq!(steps(&mut order), "");
        order.admission_ended(lease(1), true);
        assert_eq!(steps(&mut order), "s1");
        order.work_ended();
        assert_eq!(steps(&mut order), "g2");
    }

    #[test]
    fn an_ended_stream_applies_settlements_without_its_lists() {
        let mut order = Order::default();
        for work in [settle(1), list(2, &[]), settle(2), Work::Goodbye] {
            order.push(work);
        }
        order.drop_lists();
        assert_eq!(steps(&mut order), "s1 s2");
        order.work_ended();
        order.work_ended();
        assert!(order.is_idle());
    }
}
