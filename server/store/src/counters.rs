//! Counters of limits and quotas. A request reserves amounts when it is admitted. When it has ended, a settlement
//! replaces the reserved amounts with the actual charge. [`super::memory`] and [`super::redis`] give the same answers.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use async_trait::async_trait;
use evenkeel_domain::{
    HolderId, LeaseId, StoreError,
    limit::{Bucket, CounterRule, Meter},
};

/// The id of a reservation. It makes calls idempotent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReservationId {
    /// The gateway worker whose request made the reservation. Its KeepAlives renew the reservation.
    pub holder: HolderId,
    pub lease: LeaseId,
}

impl ReservationId {
    /// Returns an id that belongs to no gateway, for giving back a reservation that has no record.
    #[must_use]
    pub fn nobody() -> Self {
        match (HolderId::new("-"), LeaseId::new(1)) {
            (Ok(holder), Ok(lease)) => Self { holder, lease },
            _ => unreachable!("both are valid"),
        }
    }
}

/// A reservation in several counters: in all of them or in none.
#[derive(Clone, Debug)]
pub struct Reserve {
    /// `None` if the request will not be settled. Without an id, a repeated call takes the amounts again.
    pub id: Option<ReservationId>,
    /// The counters and costs. No counter occurs twice.
    pub meters: Vec<Meter>,
}

/// The state of one counter after [`Counters::reserve`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CounterState {
    /// Whether the cost does not fit into the counter.
    pub over: bool,
    /// The used amount, including the amount that this request took. For a prepaid quota, the balance.
    pub used: u64,
    /// The part of the used amount that in-flight requests have reserved, if the algorithm counts reservations
    /// separately.
    pub reserved: u64,
    /// The amount that this request took: less than its cost if a quota had less left, 0 if the request was refused.
    pub taken: u64,
    /// The amount of the limit, or the recorded amount of the quota. If a quota has neither a record nor a default,
    /// both this and the used amount are 0.
    pub amount: u64,
    /// The window, slot or day of the reservation. The settlement passes it back.
    pub window: u64,
    /// Time until the whole amount is free again, without further requests. 0 if time alone frees nothing.
    pub reset_ms: u64,
    /// For a refusal, the time until this request would fit, without further requests. 0 if time alone frees nothing.
    pub retry_ms: u64,
    /// For a refusal, the time during which no settlement can make this request fit, and only an administrator can. 0
    /// if the refusal must not be cached.
    pub final_ms: u64,
}

/// Which counters decided a [`Verdict`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReserveBasis {
    #[default]
    Shared,
    /// The store was unavailable. This sidecar's own counters decided, with this sidecar's fraction of each amount.
    /// Quotas, and limits with the policy `open`, counted nothing.
    Local,
    /// The store was unavailable, and a limit has the policy `closed`.
    Closed,
}

/// The result of [`Counters::reserve`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Which counters decided on the request.
    pub basis: ReserveBasis,
    /// Whether the request fitted into all counters, apart from those in shadow mode, and took its amounts.
    pub admitted: bool,
    /// One state for each meter, in the order of the meters.
    pub states: Vec<CounterState>,
    /// References to the records of the reservation. The settlement passes them back.
    pub records: Vec<RecordRef>,
}

/// Where a store recorded a reservation. The record ensures that the reservation is settled only once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordRef {
    /// The tag in the key of the record.
    pub tag: Arc<str>,
    /// The day of the record, in days since the Unix epoch.
    pub day: u64,
    /// When the store created the records of that day, in ms. If the time differs at the settlement, the store has lost
    /// its data.
    pub epoch: u64,
}

/// The settlement of one counter.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub bucket: Arc<Bucket>,
    /// Name of the limit or quota.
    pub name: Arc<str>,
    pub rule: CounterRule,
    /// The window, slot or day of the reservation.
    pub window: u64,
    pub reserved: u64,
    /// The charge that replaces the reserved amount.
    pub actual: u64,
    /// Whether the settlement replaces the reserved amount, as in the meter.
    pub provisional: bool,
}

impl Entry {
    /// Builds the settlement of the amount that `meter` took according to `state`. `actual` is the actual charge.
    #[must_use]
    pub fn settling(meter: &Meter, state: &CounterState, actual: u64) -> Self {
        Self {
            bucket: Arc::clone(&meter.bucket),
            name: Arc::clone(&meter.name),
            rule: meter.rule,
            window: state.window,
            reserved: state.taken,
            actual,
            provisional: meter.provisional,
        }
    }
}

/// The settlement of a reservation.
#[derive(Clone, Debug)]
pub struct Settlement {
    pub id: ReservationId,
    /// Where the reservation was recorded. Empty if it had no id.
    pub records: Vec<RecordRef>,
    pub entries: Vec<Entry>,
    /// Tokens that the request used. Only reports about settlements that are lost contain them.
    pub tokens: u64,
    pub by: Settler,
}

impl Settlement {
    /// Returns a settlement of a request that has no reservation in the store. It charges nothing and only finds out
    /// whether it is the first. `day`: the day of the request's admission, which must be the same for all settlements.
    #[must_use]
    pub fn without_reservation(id: ReservationId, day: u64, tokens: u64, by: Settler) -> Self {
        let record =
            RecordRef { tag: format!("holder={}", id.holder).into(), day: day + APART_DAYS, epoch: NO_EPOCH };
        Self { id, records: vec![record], entries: Vec::new(), tokens, by }
    }

    /// Returns whether the settlement charges nothing.
    pub(crate) fn only_marks(&self) -> bool {
        self.entries.is_empty() && self.records.iter().all(|record| record.day >= APART_DAYS)
    }
}

/// What is added to the day of a request's admission for a record that belongs to no reservation. The store may have
/// another record of the same request, of a reservation.
pub(crate) const APART_DAYS: u64 = 1_000_000;
/// The epoch in such a record. No store has it, so the first settlement charges in full and leaves a mark.
pub(crate) const NO_EPOCH: u64 = 0;

/// Identifies one settlement of a request among several: a gateway repeats a settlement at another sidecar if the first
/// one hangs, and each sidecar repeats its calls of the store. Only the first settlement records the request's usage, so
/// a sidecar whose call got no reply must learn which settlement was the first.
///
/// A mark in the store would cost memory for each request. So the settlement at the sidecar that admitted the request,
/// which is nearly always the only one, leaves none. All others leave marks, and so does that one if the gateway has asked
/// two sidecars for the admission. A sidecar that repeats the settlement without a mark and finds neither the
/// reservation nor a mark knows that its own earlier call was the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settler {
    /// A random number that distinguishes the settlements of one request.
    number: u64,
    leaves_mark: bool,
}

impl Settler {
    /// Larger numbers would not fit exactly into the doubles of scripts.
    const NUMBER_MAX: u64 = 1 << 52;

    /// Returns a new settler. At most one for each request may leave no mark.
    #[must_use]
    pub fn new(leaves_mark: bool) -> Self {
        let random = RandomState::new().hash_one(leaves_mark);
        Self { number: random % Self::NUMBER_MAX + 1, leaves_mark }
    }

    /// Returns the settler that rolls a reservation back, unless it was made again: another sidecar may have admitted the
    /// request when the gateway asked again.
    #[must_use]
    pub fn rollback() -> Self {
        Self { number: 0, leaves_mark: false }
    }

    pub(crate) fn rolls_back(self) -> bool {
        self.number == 0
    }

    pub(crate) fn number(self) -> u64 {
        self.number
    }

    pub(crate) fn leaves_mark(self) -> bool {
        self.leaves_mark
    }

    /// Returns whether the result of a repeated call shows that an earlier call of this settlement was the first.
    pub(crate) fn was_first(self, result: SettleResult) -> bool {
        match result {
            SettleResult::First => true,
            SettleResult::Before { by: Some(number) } => number == self.number,
            SettleResult::Before { by: None } => !self.leaves_mark,
        }
    }
}

/// The result of [`Counters::settle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettleResult {
    /// This call has settled the request.
    First,
    /// The request was settled before.
    Before {
        /// The number of the settler that left a mark, if one did.
        by: Option<u64>,
    },
}

impl SettleResult {
    #[must_use]
    pub fn is_first(self) -> bool {
        self == Self::First
    }
}

/// Called once with whether a settlement was the first of its request.
pub type WhenSettled = Box<dyn FnOnce(bool) + Send>;

/// The renewal of an in-flight request under a concurrency limit.
#[derive(Clone, Debug)]
pub struct Renewal {
    pub id: ReservationId,
    pub bucket: Arc<Bucket>,
    /// Name of the limit.
    pub name: Arc<str>,
    /// How long the request remains counted without another renewal.
    pub ttl_ms: u64,
}

#[async_trait]
pub trait Counters: Send + Sync + 'static {
    /// Takes from all counters, or from none if the cost does not fit into one of them. A repeated call with the same
    /// id on the same day takes nothing more and returns the amounts that the first call took.
    ///
    /// On Redis Cluster, counters with different tags are in different slots. The store calls all slots at once. If one
    /// slot refuses, the store gives back what it took in the other slots.
    async fn reserve(&self, reserve: Reserve) -> Result<Verdict, StoreError>;

    /// Gives back the amounts in the record of a reservation. Does nothing without a record, or if the reservation was made
    /// again: the gateway may have asked another sidecar. Callers use it when the reply to a reservation was lost. A
    /// request under a concurrency limit remains counted until its time to live ends.
    async fn give_back(&self, reserve: Reserve) -> Result<(), StoreError>;

    /// Returns what [`Self::reserve`] would return, without taking anything.
    async fn peek(&self, meters: Vec<Meter>) -> Result<Verdict, StoreError>;

    /// Replaces the reserved amounts with the charge, once: a repeated call changes nothing. If a request has records under
    /// several tags, the first record decides on the result.
    ///
    /// - During the window of the reservation, adds or gives back the difference. No counter falls below 0.
    /// - After that window, charges any excess to the current window, and gives nothing back.
    /// - If the store has lost the reservation because it restarted empty, charges the current window in full.
    /// - Without records, every call takes effect.
    async fn settle(&self, settlement: Settlement) -> Result<SettleResult, StoreError>;

    /// Settles, and calls `when_settled` as soon as the store has answered. A store that queues the settlement during an
    /// outage returns before that.
    ///
    /// # Errors
    /// If the store fails and does not queue the settlement. `when_settled` is not called then.
    async fn settle_then(&self, settlement: Settlement, when_settled: WhenSettled) -> Result<(), StoreError> {
        let result = self.settle(settlement).await?;
        when_settled(result.is_first());
        Ok(())
    }

    /// Renews in-flight requests under concurrency limits, so that they remain counted, and restores requests that the
    /// store has lost.
    async fn renew(&self, renewals: Vec<Renewal>) -> Result<(), StoreError>;
}
