//! What a sidecar notes in passing.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use evenkeel_domain::{
    HolderId, PoolId,
    activity::{AdmitResult, Burn, Nearest, Refused, Repair, RepairKind},
    clock::unix_ms,
    limit::Bucket,
};
use parking_lot::Mutex;
use prometheus::IntCounter;
use tokio::time::Instant;

use super::{
    burns::{self, Standing},
    nearest::{self, Seen},
};

/// Refusals recorded in a second, and at once, by all sidecars together: an hour of them is 40 MB in the store.
const REFUSALS_PER_S: f64 = 20.0;
const REFUSALS_BURST: f64 = 1000.0;
/// Refusals and repairs that wait for the store.
const WAITING_MAX: usize = 2000;
/// Holders counted.
const HOLDERS_MAX: usize = 100_000;

/// A limit or quota that a request was held against, as it stands after it.
#[derive(Clone, Copy, Debug)]
pub struct Metered<'a> {
    /// Its name.
    pub name: &'a Arc<str>,
    /// The key it is counted by.
    pub bucket: &'a Arc<Bucket>,
    /// Amount in force; of a prepaid quota 0.
    pub amount: u64,
    /// Used, reservations included; of a quota what is left.
    pub level: u64,
    /// Time until all of it is free again; 0 where no time brings that about.
    pub reset_ms: u64,
    /// Shadow mode.
    pub shadow: bool,
    /// The consumer whose quota it is; `None` of a limit.
    pub quota_of: Option<&'a str>,
}

/// A quota that was charged.
#[derive(Clone, Copy, Debug)]
pub struct Charged<'a> {
    /// Its name.
    pub quota: &'a Arc<str>,
    /// Whose.
    pub consumer: &'a str,
    /// How much.
    pub amount: u64,
}

/// Notes what happens.
pub struct Recorder {
    name: String,
    draining: AtomicBool,
    /// Sidecars that share what may be recorded.
    sidecars: AtomicUsize,
    admitted: AtomicU64,
    refused: AtomicU64,
    refusals: Mutex<Gate>,
    repairs: Mutex<Vec<Repair>>,
    nearest: Mutex<nearest::Table>,
    burns: Mutex<burns::Table>,
    holders: Mutex<HashMap<HolderId, Instant>>,
    unrecorded: IntCounter,
}

/// Refusals that wait, and how many more may come.
struct Gate {
    waiting: Vec<Refused>,
    room: f64,
    at: Instant,
}

impl Recorder {
    /// For the sidecar of this name. `unrecorded` counts refusals of which nothing is kept.
    #[must_use]
    pub fn new(name: String, unrecorded: IntCounter) -> Self {
        Self {
            name,
            draining: AtomicBool::new(false),
            sidecars: AtomicUsize::new(1),
            admitted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            refusals: Mutex::new(Gate { waiting: Vec::new(), room: REFUSALS_BURST, at: Instant::now() }),
            repairs: Mutex::default(),
            nearest: Mutex::default(),
            burns: Mutex::default(),
            holders: Mutex::default(),
            unrecorded,
        }
    }

    /// The sidecar's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// No new work is taken from now on.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether no new work is taken.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// So many sidecars share what may be recorded.
    pub(super) fn set_sidecars(&self, sidecars: usize) {
        self.sidecars.store(sidecars.max(1), Ordering::Relaxed);
    }

    /// Counts a request.
    pub fn count(&self, result: AdmitResult) {
        let counter = if result.is_admitted() { &self.admitted } else { &self.refused };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests admitted and refused since the start.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        (self.admitted.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed))
    }

    /// Notes limits and quotas as a request found them.
    pub fn metered<'a>(&self, found: impl Iterator<Item = Metered<'a>> + Clone) {
        let now_ms = unix_ms();
        let reset_at_ms = |ms: u64| if ms == 0 { 0 } else { now_ms + ms };
        let mut limits = found.clone().filter(|metered| metered.quota_of.is_none()).peekable();
        if limits.peek().is_some() {
            let mut nearest = self.nearest.lock();
            for Metered { name, bucket, amount, level, reset_ms, shadow, .. } in limits {
                let reset_at_ms = reset_at_ms(reset_ms);
                nearest.see(name, bucket, Seen { amount, used: level, reset_at_ms, shadow, at_ms: now_ms });
            }
        }
        for Metered { name, amount, level, reset_ms, quota_of, .. } in found {
            let Some(consumer) = quota_of else { continue };
            let standing =
                Standing { balance: level, amount, reset_at_ms: reset_at_ms(reset_ms), at_ms: now_ms };
            self.burns.lock().see(name, consumer, standing);
        }
    }

    /// Notes what was charged to quotas.
    pub fn charged(&self, charged: &Charged<'_>) {
        self.burns.lock().charge(charged.quota, charged.consumer, charged.amount, unix_ms());
    }

    /// Whether a refusal is to be told of: so many are kept in a second, and no more.
    #[must_use]
    pub fn wants_refusal(&self) -> bool {
        let mut gate = self.refusals.lock();
        let now = Instant::now();
        let passed = now.saturating_duration_since(gate.at).as_secs_f64();
        let share = 1.0 / self.sidecars.load(Ordering::Relaxed) as f64;
        gate.room = (gate.room + passed * REFUSALS_PER_S * share).min((REFUSALS_BURST * share).max(1.0));
        gate.at = now;
        let wants = gate.room >= 1.0 && gate.waiting.len() < WAITING_MAX;
        if wants {
            gate.room -= 1.0;
        } else {
            self.unrecorded.inc();
        }
        wants
    }

    /// Notes a refusal, where [`Self::wants_refusal`].
    pub fn refused(&self, mut refused: Refused) {
        refused.id = rand::random();
        refused.at_ms = unix_ms();
        refused.sidecar.clone_from(&self.name);
        self.refusals.lock().waiting.push(refused);
    }

    /// Notes a repair, if there was anything to repair.
    pub fn repaired(&self, kind: RepairKind, pool: &PoolId, holder: Option<&HolderId>, count: u64) {
        let mut repairs = self.repairs.lock();
        if count == 0 || repairs.len() >= WAITING_MAX {
            return;
        }
        repairs.push(Repair {
            id: rand::random(),
            at_ms: unix_ms(),
            kind,
            route: pool.route().to_owned(),
            cluster: pool.cluster().to_owned(),
            holder: holder.map(ToString::to_string).unwrap_or_default(),
            count,
            sidecar: self.name.clone(),
        });
    }

    /// Notes a sign of life of a gateway worker.
    pub fn seen(&self, holder: &HolderId) {
        let mut holders = self.holders.lock();
        if holders.len() < HOLDERS_MAX || holders.contains_key(holder) {
            holders.insert(holder.clone(), Instant::now());
        }
    }

    /// Gateway workers heard of within this time.
    pub(super) fn holders(&self, within: std::time::Duration) -> u64 {
        let mut holders = self.holders.lock();
        holders.retain(|_, at| at.elapsed() <= within);
        holders.len() as u64
    }

    pub(super) fn take_refusals(&self) -> Vec<Refused> {
        std::mem::take(&mut self.refusals.lock().waiting)
    }

    pub(super) fn take_repairs(&self) -> Vec<Repair> {
        std::mem::take(&mut self.repairs.lock())
    }

    /// Puts back what did not reach the store.
    pub(super) fn put_back(&self, refusals: Vec<Refused>, repairs: Vec<Repair>) {
        let mut gate = self.refusals.lock();
        let newer = std::mem::replace(&mut gate.waiting, refusals);
        gate.waiting.extend(newer);
        let excess = gate.waiting.len().saturating_sub(WAITING_MAX);
        gate.waiting.drain(..excess);
        self.unrecorded.inc_by(excess as u64);
        drop(gate);
        let mut kept = self.repairs.lock();
        let newer = std::mem::replace(&mut *kept, repairs);
        kept.extend(newer);
        kept.truncate(WAITING_MAX);
    }

    /// Of each limit the share that its fullest key has used, as this sidecar last saw it.
    #[must_use]
    pub fn fullest(&self) -> Vec<(Arc<str>, f64)> {
        self.nearest.lock().fullest(unix_ms()).into_iter().collect()
    }

    /// What was told of limits and quotas is lost: it is told again.
    pub(super) fn mark_changed(&self) {
        self.nearest.lock().mark_changed();
        self.burns.lock().mark_changed();
    }

    pub(super) fn take_nearest(&self, now_ms: u64) -> Option<Vec<Nearest>> {
        self.nearest.lock().take_changed(now_ms)
    }

    pub(super) fn take_burns(&self, now_ms: u64) -> Option<Vec<Burn>> {
        self.burns.lock().take_changed(now_ms)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn recorder() -> Recorder {
        Recorder::new("s".into(), IntCounter::new("unrecorded", "refusals of which nothing is kept").unwrap())
    }

    fn refused(id: usize) -> Refused {
        Refused {
            id: 0,
            request_id: id.to_string(),
            at_ms: 0,
            route: String::new(),
            cluster: "c".into(),
            reason: AdmitResult::Limit,
            why: String::new(),
            status: 429,
            retry_after_ms: 0,
            consumer: String::new(),
            model: String::new(),
            limit: String::new(),
            key: String::new(),
            amount: 0,
            used: 0,
            cost: 0,
            sidecar: String::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_refusals_are_kept_and_no_more() {
        let recorder = recorder();
        let flood = |from: usize| {
            (from..from + 5000).filter(|i| {
                let wants = recorder.wants_refusal();
                if wants {
                    recorder.refused(refused(*i));
                }
                wants
            })
        };
        assert_eq!(flood(0).count(), 1000);
        assert_eq!(recorder.unrecorded.get(), 4000);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(flood(5000).count(), 40);
        recorder.set_sidecars(4);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(flood(10_000).count(), 250, "four sidecars share");
        let taken = recorder.take_refusals();
        assert_eq!((taken.len(), &*taken[0].request_id, &*taken[0].sidecar), (1290, "0", "s"));
        recorder.refused(refused(9));
        recorder.put_back(taken, Vec::new());
        assert_eq!(
            recorder.take_refusals().last().map(|refused| refused.request_id.clone()),
            Some("9".into())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn holders_are_counted_while_they_are_seen() {
        let (recorder, a, b) = (recorder(), HolderId::new("a").unwrap(), HolderId::new("b").unwrap());
        recorder.seen(&a);
        tokio::time::advance(Duration::from_secs(5)).await;
        recorder.seen(&b);
        assert_eq!(recorder.holders(Duration::from_secs(6)), 2);
        assert_eq!(recorder.holders(Duration::from_secs(4)), 1);
    }
}
