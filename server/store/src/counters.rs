//! Counters of limits and quotas. A request reserves amounts when it is admitted. When it has ended, a settlement
//! replaces the reserved amounts with the actual charge. [`super::memory`] and [`super::redis`] give the same answers.

use std::sync::Arc;

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
}

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

    /// Gives back the amounts in the record of a reservation. Does nothing without a record. Callers use it when the
    /// reply to a reservation was lost. A request under a concurrency limit remains counted until its time to live
    /// ends.
    async fn give_back(&self, reserve: Reserve) -> Result<(), StoreError>;

    /// Returns what [`Self::reserve`] would return, without taking anything.
    async fn peek(&self, meters: Vec<Meter>) -> Result<Verdict, StoreError>;

    /// Replaces the reserved amounts with the charge, once: a repeated call changes nothing and returns false.
    ///
    /// - During the window of the reservation, adds or gives back the difference. No counter falls below 0.
    /// - After that window, charges any excess to the current window, and gives nothing back.
    /// - If the store has lost the reservation because it restarted empty, charges the current window in full.
    /// - Without records, every call takes effect.
    async fn settle(&self, settlement: Settlement) -> Result<bool, StoreError>;

    /// Renews in-flight requests under concurrency limits, so that they remain counted, and restores requests that the
    /// store has lost.
    async fn renew(&self, renewals: Vec<Renewal>) -> Result<(), StoreError>;
}
