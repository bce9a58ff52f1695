//! Counters of limits and quotas. A request reserves when it is admitted and settles when it has ended.
//! [`super::memory`] and [`super::redis`] give the same answers.

use std::sync::Arc;

use async_trait::async_trait;
use evenkeel_domain::{
    HolderId, LeaseId, StoreError,
    limit::{Bucket, CounterRule, Meter},
};

/// The id of a reservation, which makes calls idempotent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReservationId {
    /// The holder, which renews the reservation with its KeepAlives.
    pub holder: HolderId,
    pub lease: LeaseId,
}

impl ReservationId {
    /// An id of no gateway, to give back a reservation that has no record.
    #[must_use]
    pub fn nobody() -> Self {
        match (HolderId::new("-"), LeaseId::new(1)) {
            (Ok(holder), Ok(lease)) => Self { holder, lease },
            _ => unreachable!("both are valid"),
        }
    }
}

/// Reserves in several counters at once: in all or in none.
#[derive(Clone, Debug)]
pub struct Reserve {
    /// `None` if the request will not be settled. Without an id, a repeated call takes again.
    pub id: Option<ReservationId>,
    /// The counters and costs. Names no counter twice.
    pub meters: Vec<Meter>,
}

/// One counter after [`Counters::reserve`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CounterState {
    /// Whether this counter has no room.
    pub over: bool,
    /// The used amount, including what this request took. For a prepaid quota, the balance.
    pub used: u64,
    /// The part of the used amount that running requests reserve, if the algorithm keeps it apart.
    pub reserved: u64,
    /// What this request took: less than its cost if a quota had less, 0 if it was refused.
    pub taken: u64,
    /// The amount in force; for a quota, the one on record. 0, with nothing used, if a quota has neither record nor
    /// default.
    pub amount: u64,
    /// The window, slot or day of the reservation. The settlement returns it.
    pub window: u64,
    /// Time until the whole amount is free again without further requests. 0 if time alone frees nothing.
    pub reset_ms: u64,
    /// For a refusal, the time until this request would fit without further requests. 0 if time alone frees nothing.
    pub retry_ms: u64,
    /// For a refusal, the time in which only an administrator can make room, and no settlement can. 0 if the refusal
    /// must not be cached.
    pub final_ms: u64,
}

/// The basis of a [`Verdict`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReserveBasis {
    #[default]
    Shared,
    /// The store was unavailable: this sidecar's own counters, with its share of the amounts. Meters with the policy
    /// `open` counted nothing.
    Local,
    /// The store was unavailable, and a meter has the policy `closed`.
    Closed,
}

/// The result of [`Counters::reserve`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What it rests on.
    pub basis: ReserveBasis,
    /// Whether all counters had room, apart from those in shadow mode, and the request took from them.
    pub admitted: bool,
    /// One for each meter, in their order.
    pub states: Vec<CounterState>,
    /// Where the records of the reservation are. The settlement returns them.
    pub records: Vec<RecordRef>,
}

/// Where a store recorded a reservation, so that it is settled once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordRef {
    /// The tag that the record is kept under.
    pub tag: Arc<str>,
    /// Day of the record, since the Unix epoch.
    pub day: u64,
    /// When the store created the day's records, in ms. If it differs at the settlement, the store has lost its data.
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
    /// The charge, in place of the reserved amount.
    pub actual: u64,
    /// As in its meter.
    pub provisional: bool,
}

impl Entry {
    /// Builds the settlement of what `meter` took, according to `state`, with the request's actual use.
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
}

/// A running request that stays counted.
#[derive(Clone, Debug)]
pub struct Renewal {
    pub id: ReservationId,
    pub bucket: Arc<Bucket>,
    /// Name of the limit.
    pub name: Arc<str>,
    /// How long the request stays counted without another renewal.
    pub ttl_ms: u64,
}

#[async_trait]
pub trait Counters: Send + Sync + 'static {
    /// Takes from all counters, or from none if one has no room. A repeated call with the same id on the same day takes
    /// nothing more, and returns what the first call took.
    ///
    /// On Redis Cluster, counters of different tags are in different slots. The store calls all slots at once. If one
    /// refuses, it gives back what the others took.
    async fn reserve(&self, reserve: Reserve) -> Result<Verdict, StoreError>;

    /// Gives back what a reservation took, according to its record. Does nothing without a record. Callers use it when
    /// the reply to a reservation was lost. A request that counts as running stays counted until its time to live ends.
    async fn give_back(&self, reserve: Reserve) -> Result<(), StoreError>;

    /// Returns what [`Self::reserve`] would return, and takes nothing.
    async fn peek(&self, meters: Vec<Meter>) -> Result<Verdict, StoreError>;

    /// Replaces the reserved amounts by the charge, once: a repeated call changes nothing and returns false.
    ///
    /// - While the window of the reservation lasts, adds or gives back the difference. No counter falls below 0.
    /// - After that window, charges any excess to the current one, and gives nothing back.
    /// - If the store has lost the reservation because it came back empty, charges the current window in full.
    /// - Without records, every call applies.
    async fn settle(&self, settlement: Settlement) -> Result<bool, StoreError>;

    /// Keeps running requests counted, and restores those that the store has lost.
    async fn renew(&self, renewals: Vec<Renewal>) -> Result<(), StoreError>;
}
