//! Records events while the sidecar handles requests, without waiting.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use evenkeel_domain::{
    HolderId, PoolId,
    activity::{AdmitResult, FullestKey, QuotaCharges, Refused, Repair, RepairKind},
    clock::unix_ms,
    limit::Bucket,
};
use parking_lot::Mutex;
use prometheus::IntCounter;
use tokio::time::Instant;

use super::{
    charges::{Charges, Standing},
    fullest_keys::{FullestKeys, Seen},
    gateways::Gateways,
    refusal_queue::RefusalQueue,
};

/// Maximum number of repairs that wait for the store.
const REPAIRS_MAX: usize = 2000;
const HOLDERS_MAX: usize = 100_000;

/// The state of a limit or quota after a request was checked against it.
#[derive(Clone, Copy, Debug)]
pub struct Metered<'a> {
    pub name: &'a Arc<str>,
    pub bucket: &'a Arc<Bucket>,
    /// The amount of the limit for this key. 0 for a prepaid quota.
    pub amount: u64,
    /// For a limit, the used amount including reservations. For a quota, the balance.
    pub level: u64,
    /// Time until the whole amount is free again. 0 if time alone frees nothing.
    pub reset_ms: u64,
    pub shadow: bool,
    /// The consumer, if this is a quota. `None` for a limit.
    pub quota_of: Option<&'a str>,
}

/// A charge to a quota.
#[derive(Clone, Copy, Debug)]
pub struct Charged<'a> {
    pub quota: &'a Arc<str>,
    pub consumer: &'a str,
    pub amount: u64,
}

/// Records the events at this sidecar.
pub struct Recorder {
    name: String,
    stopping: AtomicBool,
    admitted: AtomicU64,
    refused: AtomicU64,
    refusals: RefusalQueue,
    repairs: Mutex<Vec<Repair>>,
    fullest_keys: Mutex<FullestKeys>,
    charges: Mutex<Charges>,
    holders: Mutex<HashMap<HolderId, Instant>>,
    /// Gateways that use this sidecar.
    pub gateways: Gateways,
    certificate_expires_at_ms: AtomicU64,
    /// Since when this sidecar has reported without a break, in ms since the Unix epoch. 0: it does not report.
    reporting_since_ms: AtomicU64,
}

impl Recorder {
    /// Creates the recorder of the sidecar with this name. `unrecorded` counts the refusals that are not recorded.
    #[must_use]
    pub fn new(name: String, unrecorded: IntCounter) -> Self {
        Self {
            name,
            stopping: AtomicBool::new(false),
            admitted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            refusals: RefusalQueue::new(unrecorded),
            repairs: Mutex::default(),
            fullest_keys: Mutex::default(),
            charges: Mutex::default(),
            holders: Mutex::default(),
            gateways: Gateways::default(),
            certificate_expires_at_ms: AtomicU64::new(0),
            reporting_since_ms: AtomicU64::new(0),
        }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Marks the sidecar as stopping, which means that it takes no new work.
    pub fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Sets when this sidecar's certificate expires, in ms since the Unix epoch.
    pub fn set_certificate_expiry(&self, expires_at_ms: u64) {
        self.certificate_expires_at_ms.store(expires_at_ms, Ordering::Relaxed);
    }

    /// Returns when this sidecar's certificate expires, in ms since the Unix epoch. 0: the sidecar has no TLS.
    #[must_use]
    pub fn certificate_expiry(&self) -> u64 {
        self.certificate_expires_at_ms.load(Ordering::Relaxed)
    }

    /// Sets since when this sidecar has reported without a break.
    pub(super) fn set_reporting_since(&self, since_ms: u64) {
        self.reporting_since_ms.store(since_ms, Ordering::Relaxed);
    }

    /// Returns whether this sidecar has reported without a break for a time, in ms. After an outage of the store, the
    /// reports of all sidecars are old until each has reported again.
    #[must_use]
    pub fn has_reported_for(&self, ms: u64) -> bool {
        let since_ms = self.reporting_since_ms.load(Ordering::Relaxed);
        since_ms > 0 && unix_ms() >= since_ms + ms
    }

    /// Sets the number of sidecars that share the rate of recorded refusals.
    pub(super) fn set_sidecars(&self, sidecars: usize) {
        self.refusals.set_sidecars(sidecars);
    }

    /// Counts a request by its result.
    pub fn count(&self, result: AdmitResult) {
        let counter = if result.is_admitted() { &self.admitted } else { &self.refused };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the numbers of requests admitted and refused since the start.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        (self.admitted.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed))
    }

    /// Records the state of the limits and quotas against which a request was checked.
    pub fn metered<'a>(&self, found: impl Iterator<Item = Metered<'a>> + Clone) {
        let now_ms = unix_ms();
        let reset_at_ms = |ms: u64| if ms == 0 { 0 } else { now_ms + ms };
        let mut limits = found.clone().filter(|metered| metered.quota_of.is_none()).peekable();
        if limits.peek().is_some() {
            let mut keys = self.fullest_keys.lock();
            for Metered { name, bucket, amount, level, reset_ms, shadow, .. } in limits {
                let reset_at_ms = reset_at_ms(reset_ms);
                keys.see(name, bucket, Seen { amount, used: level, reset_at_ms, shadow, at_ms: now_ms });
            }
        }
        for Metered { name, amount, level, reset_ms, quota_of, .. } in found {
            let Some(consumer) = quota_of else { continue };
            let standing =
                Standing { balance: level, amount, reset_at_ms: reset_at_ms(reset_ms), at_ms: now_ms };
            self.charges.lock().see(name, consumer, standing);
        }
    }

    /// Records a charge to a quota.
    pub fn charged(&self, charged: &Charged<'_>) {
        self.charges.lock().charge(charged.quota, charged.consumer, charged.amount, unix_ms());
    }

    /// Returns whether the caller should record a refusal. If the bounded rate is exceeded, counts the refusal as
    /// unrecorded and returns false.
    #[must_use]
    pub fn wants_refusal(&self) -> bool {
        self.refusals.has_room()
    }

    /// Records a refusal. The caller must have called [`Self::wants_refusal`] for it, with the result true.
    pub fn refused(&self, mut refused: Refused) {
        refused.id = rand::random();
        refused.at_ms = unix_ms();
        refused.sidecar.clone_from(&self.name);
        self.refusals.push(refused);
    }

    /// Records a repair, unless `count` is 0.
    pub fn repaired(&self, kind: RepairKind, pool: &PoolId, holder: Option<&HolderId>, count: u64) {
        let mut repairs = self.repairs.lock();
        if count == 0 || repairs.len() >= REPAIRS_MAX {
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

    /// Records that a gateway worker is alive.
    pub fn seen(&self, holder: &HolderId) {
        let mut holders = self.holders.lock();
        if holders.len() < HOLDERS_MAX || holders.contains_key(holder) {
            holders.insert(holder.clone(), Instant::now());
        }
    }

    /// Returns the number of gateway workers seen within this time.
    pub(super) fn holders(&self, within: std::time::Duration) -> u64 {
        let mut holders = self.holders.lock();
        holders.retain(|_, at| at.elapsed() <= within);
        holders.len() as u64
    }

    pub(super) fn take_refusals(&self) -> Vec<Refused> {
        self.refusals.take()
    }

    pub(super) fn take_repairs(&self) -> Vec<Repair> {
        std::mem::take(&mut self.repairs.lock())
    }

    /// Puts back refusals and repairs that did not reach the store.
    pub(super) fn put_back(&self, refusals: Vec<Refused>, repairs: Vec<Repair>) {
        self.refusals.put_back(refusals);
        let mut kept = self.repairs.lock();
        let newer = std::mem::replace(&mut *kept, repairs);
        kept.extend(newer);
        kept.truncate(REPAIRS_MAX);
    }

    /// Returns, for each limit, the used fraction of its fullest key as this sidecar last saw it.
    #[must_use]
    pub fn fullest_shares(&self) -> Vec<(Arc<str>, f64)> {
        self.fullest_keys.lock().shares(unix_ms()).into_iter().collect()
    }

    /// Makes the next report of limits and quotas complete, because the store has lost the last report.
    pub(super) fn mark_changed(&self) {
        self.fullest_keys.lock().mark_changed();
        self.charges.lock().mark_changed();
    }

    pub(super) fn take_fullest_keys(&self, now_ms: u64) -> Option<Vec<FullestKey>> {
        self.fullest_keys.lock().take_changed(now_ms)
    }

    pub(super) fn take_charges(&self, now_ms: u64) -> Option<Vec<QuotaCharges>> {
        self.charges.lock().take_changed(now_ms)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn recorder() -> Recorder {
        Recorder::new("s".into(), IntCounter::new("unrecorded", "Refusals not recorded").unwrap())
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
