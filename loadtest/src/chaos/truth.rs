//! What the model gateways know: which requests are in flight, and what each request has used.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Longest time between the store's answer and what a gateway knows: an admission's question comes before it, an
/// acknowledgement after it, and a sidecar writes to the ledger within half a second and the time of a call.
const CALL_MAX: Duration = Duration::from_millis(1500);

/// A request in flight.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) consumer: usize,
    pub(super) endpoint: String,
    /// Prompt tokens that the endpoint has not read yet.
    pub(super) unread: u64,
    pub(super) ticket: Vec<u8>,
    pub(super) show_ticket: bool,
    pub(super) asked_at: Instant,
}

/// A request that has ended and whose settlement a sidecar has acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Settled {
    pub(super) consumer: usize,
    pub(super) tokens: u64,
    pub(super) asked_at: Instant,
    pub(super) ended_at: Instant,
    pub(super) acknowledged_at: Instant,
    /// Index of the sidecar that acknowledged.
    pub(super) sidecar: usize,
    /// The sidecars to which the gateway has sent the settlement: a bit for each index.
    pub(super) sent_to: u32,
}

/// The leases of one holder.
pub(super) type Leases = BTreeMap<u64, Live>;

/// How one consumer's requests ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    pub(super) settled: Vec<Settled>,
    /// Number of requests without an acknowledged settlement, because their gateway was killed or gave them up. What they
    /// had reserved may stay charged.
    pub(super) abandoned: u64,
    /// Number of admissions that were asked for again because no answer came. If the first call arrives after the
    /// request has ended, its reservation stays: the sidecar keeps it for a settlement that may still come.
    pub(super) repeated: u64,
}

/// A time during which the system may lose or omit a charge, by its documentation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doubt {
    pub(super) from: Instant,
    pub(super) to: Instant,
    pub(super) about: About,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// The store loses what it had neither synchronised nor replicated: charges, and ledger entries.
    StoreLoss,
    /// The store loses usage of requests whose settlement it keeps, because sidecars send usage later.
    LateUsage,
    /// The sentinels fail over. The new primary lacks what the old one had answered and not replicated: reservations,
    /// charges, and ledger entries. Everything before and after is exact, also for requests that last longer.
    Failover,
    /// A sidecar is killed and loses the usage that it has not sent to the ledger: of settlements that it has applied,
    /// whether it has acknowledged them or the gateway has repeated them elsewhere.
    LedgerLoss { sidecar: usize },
    /// A sidecar is killed with settlements that it had acknowledged and could not send to the store yet.
    QueueLoss { sidecar: usize },
}

impl Doubt {
    /// Returns whether the charge of a request is in doubt.
    pub(super) fn charge(&self, request: &Settled) -> bool {
        match self.about {
            About::StoreLoss => self.overlaps(request.asked_at, request.acknowledged_at),
            About::Failover => self.is_near(request.asked_at) || self.is_near(request.acknowledged_at),
            About::QueueLoss { sidecar } => {
                sidecar == request.sidecar && self.contains(request.acknowledged_at)
            }
            About::LateUsage | About::LedgerLoss { .. } => false,
        }
    }

    /// Returns whether the ledger's entry of a request is in doubt.
    pub(super) fn entry(&self, request: &Settled) -> bool {
        match self.about {
            About::StoreLoss => self.overlaps(request.asked_at, request.acknowledged_at),
            About::LateUsage => self.overlaps(request.ended_at, request.acknowledged_at),
            About::Failover => self.is_near(request.asked_at) || self.is_near(request.acknowledged_at),
            About::LedgerLoss { sidecar } | About::QueueLoss { sidecar } => {
                request.sent_to & (1 << sidecar) != 0
                    && self.overlaps(request.ended_at, request.acknowledged_at)
            }
        }
    }

    fn overlaps(&self, from: Instant, to: Instant) -> bool {
        from <= self.to && to >= self.from
    }

    /// Returns whether the store may have answered in this time a call that the gateway knew of at `at`.
    fn is_near(&self, at: Instant) -> bool {
        at + CALL_MAX >= self.from && at <= self.to + CALL_MAX
    }

    fn contains(&self, at: Instant) -> bool {
        (self.from..=self.to).contains(&at)
    }
}
