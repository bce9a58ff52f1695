//! Counters of limits and quotas: reserved when a request is admitted, settled when it has ended. As with the table
//! of requests in flight, [`super::memory`] and [`super::redis`] give the same answers.

use std::sync::Arc;

use async_trait::async_trait;
use evenkeel_domain::{
    HolderId, LeaseId, StoreError,
    limit::{Bucket, CounterRule, Meter},
};

/// Whose reservation: what makes repeated calls harmless.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReservationId {
    /// Who renewals the lease.
    pub holder: HolderId,
    pub lease: LeaseId,
}

impl ReservationId {
    /// Of no gateway: for what is given back without having been noted.
    #[must_use]
    pub fn nobody() -> Self {
        match (HolderId::new("-"), LeaseId::new(1)) {
            (Ok(holder), Ok(lease)) => Self { holder, lease },
            _ => unreachable!("both are valid"),
        }
    }
}

/// Takes of several counters at once: all or none.
#[derive(Clone, Debug)]
pub struct Reserve {
    /// Set where it is to be settled. Without it a repeated call takes again.
    pub id: Option<ReservationId>,
    /// What it takes; no counter twice.
    pub meters: Vec<Meter>,
}

/// One counter after [`Counters::reserve`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Whether this counter had no room.
    pub over: bool,
    /// Used now, what this request took included. Of a prepaid quota: what is left.
    pub used: u64,
    /// Part of what is used that is reserved for requests under way, as far as that is kept apart.
    pub reserved: u64,
    /// Taken by this request: less than asked for where a quota had less. 0 where refused.
    pub taken: u64,
    /// The amount in force: of quotas from their record. 0 and nothing used where a quota has neither record nor
    /// default.
    pub amount: u64,
    /// The window, slot or day it was taken in; to be shown when it is settled.
    pub window: u64,
    /// Time until all that is used is free again if nothing else comes; 0 where no time brings that about.
    pub reset_ms: u64,
    /// Where over: time until this request would fit if nothing else came; 0 where no time brings that about.
    pub retry_ms: u64,
    /// Where over: time for which nothing but an administrator can make room, not even what is settled; 0 where a
    /// refusal must not be remembered.
    pub final_ms: u64,
}

/// What an answer rests on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ground {
    #[default]
    Shared,
    /// The store was unavailable: this sidecar's own counters, for its share of the amounts; or, for meters that
    /// are open, nothing.
    Local,
    /// The store was unavailable, and a meter is closed.
    Closed,
}

/// The answer to [`Counters::reserve`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What it rests on.
    pub ground: Ground,
    /// Whether all had room (but for those in shadow mode), and it was taken.
    pub admitted: bool,
    /// One for each meter.
    pub readings: Vec<Reading>,
    /// Where the reservation is noted; to be shown when it is settled.
    pub notes: Vec<Note>,
}

/// Where a store noted a reservation, so that it is settled once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The tag it is kept under.
    pub tag: Arc<str>,
    /// Day of the note, since the Unix epoch.
    pub day: u64,
    /// When the place it is noted in was made, in ms: another one means that the store lost its memory.
    pub epoch: u64,
}

/// One counter of a reservation, to be settled.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub bucket: Arc<Bucket>,
    /// Name of the limit or quota.
    pub name: Arc<str>,
    pub rule: CounterRule,
    /// The window, slot or day it was taken in.
    pub window: u64,
    pub reserved: u64,
    /// What is to be charged instead.
    pub actual: u64,
    /// As in its meter.
    pub provisional: bool,
}

impl Entry {
    /// Settles what `meter` took, as `reading` reports it, with what the request really used.
    #[must_use]
    pub fn settling(meter: &Meter, reading: &Reading, actual: u64) -> Self {
        Self {
            bucket: Arc::clone(&meter.bucket),
            name: Arc::clone(&meter.name),
            rule: meter.rule,
            window: reading.window,
            reserved: reading.taken,
            actual,
            provisional: meter.provisional,
        }
    }
}

/// The end of a reservation.
#[derive(Clone, Debug)]
pub struct Settlement {
    pub id: ReservationId,
    /// Where it was noted; none where it was made without an id.
    pub notes: Vec<Note>,
    pub entries: Vec<Entry>,
}

/// A running request to be kept counted.
#[derive(Clone, Debug)]
pub struct Renewal {
    pub id: ReservationId,
    pub bucket: Arc<Bucket>,
    /// Name of the limit.
    pub name: Arc<str>,
    /// How long it stays without being renewed.
    pub ttl_ms: u64,
}

#[async_trait]
pub trait Counters: Send + Sync + 'static {
    /// Takes of all counters, or of none where one has no room. Repeated with the same id on the
    /// same day it takes nothing more, and answers with what was taken then.
    ///
    /// On Redis Cluster counters of different tags are in different places: they are asked at once, and where one
    /// refuses, the others are given back.
    async fn reserve(&self, reserve: Reserve) -> Result<Verdict, StoreError>;

    /// Gives back what a reservation took, as it was noted then; nothing where there is no note of it. For one whose
    /// answer was lost. What counts as running is left to end by itself.
    async fn give_back(&self, reserve: Reserve) -> Result<(), StoreError>;

    /// What [`Self::reserve`] would answer, taking nothing.
    async fn peek(&self, meters: Vec<Meter>) -> Result<Verdict, StoreError>;

    /// Replaces what was taken by what is to be charged, once: a repeated call changes nothing and answers false.
    ///
    /// - In the window in which it was taken, the difference is added or given back; no counter falls below 0.
    /// - Where that window has passed, more than was taken is charged to the present one, and less is not given back.
    /// - A reservation the store has lost (it came back empty) is charged in full to the present window.
    /// - Without notes it is applied each time it is called.
    async fn settle(&self, settlement: Settlement) -> Result<bool, StoreError>;

    /// Keeps running requests counted, and puts back those the store has lost.
    async fn renew(&self, renewals: Vec<Renewal>) -> Result<(), StoreError>;
}
