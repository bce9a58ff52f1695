//! The reservations of one request.

use std::sync::Arc;

use evenkeel_domain::limit::{CounterRule, Meter};
use evenkeel_store::counters::{
    CounterState, Entry, RecordRef, ReservationId, ReserveBasis, Settlement, Settler, Verdict,
};

use super::{
    Header, LimitRequest, Limiter,
    compiled::SelectedLimit,
    estimates::Estimate,
    ticket::{Debit, Ticket},
};
use crate::activity::Charged;

/// The reservation of a request that its limits admitted.
pub struct Reservation {
    /// The ticket for the gateway, which sends it back with the settlement.
    pub ticket: Ticket,
    /// Whether the gateway must include the ticket in its KeepAlives, because the request is under a concurrency limit.
    pub show_ticket: bool,
    /// Headers for the client.
    pub headers: Vec<Header>,
    /// Number of limits and quotas that apply to the request.
    pub limits: usize,
    /// The amounts that a rollback gives back.
    taken: Vec<(Meter, CounterState)>,
    /// References to the store's records of the reservation.
    records: Vec<RecordRef>,
    /// Quotas that count requests and are charged on admission: name, consumer and amount.
    charged: Vec<(Arc<str>, String, u64)>,
}

impl Reservation {
    pub(super) fn new(
        request: LimitRequest,
        limits: Vec<SelectedLimit>,
        estimate: Estimate,
        verdict: Verdict,
        headers: Vec<Header>,
    ) -> Self {
        let show_ticket = limits.iter().any(|limit| matches!(limit.meter.rule, CounterRule::Running { .. }));
        let states = || limits.iter().zip(&verdict.states);
        // Without the store, nothing has been charged yet.
        let is_local = verdict.basis == ReserveBasis::Local;
        let settled_later =
            states().filter(|(limit, _)| limit.meter.provisional || is_local && limit.meter.rule.is_quota());
        let debits = settled_later.map(|(limit, state)| Debit {
            bucket: Arc::clone(&limit.meter.bucket),
            name: Arc::clone(&limit.meter.name),
            window: state.window,
            reserved: state.taken,
            rate: if let CounterRule::TokenBucket { amount, .. } = limit.meter.rule { amount } else { 0 },
        });
        let consumer = request.attributes.consumer;
        let charged = states().filter(|(limit, _)| {
            limit.meter.rule.is_quota() && !limit.meter.provisional && verdict.basis == ReserveBasis::Shared
        });
        let charged = charged
            .map(|(limit, state)| (Arc::clone(&limit.meter.name), consumer.clone(), state.taken))
            .collect();
        let ticket = Ticket {
            consumer,
            model: request.attributes.model,
            session: request.session,
            prompt_bytes: request.body.prompt_bytes,
            choices: request.body.choices,
            generation: request.body.generation,
            output_tokens: estimate.output.ceil() as u64,
            output_max: estimate.output_max,
            records: verdict.records.clone(),
            debits: debits.collect(),
            issued_s: 0,
            endpoint: String::new(),
        };
        // Without a record, the store cannot roll back what only this sidecar's own counters took.
        let is_known = verdict.basis == ReserveBasis::Shared || !verdict.records.is_empty();
        let count = limits.len();
        let taken = limits.into_iter().map(|limit| limit.meter).zip(verdict.states);
        let taken = if is_known { taken.collect() } else { Vec::new() };
        Self { ticket, show_ticket, headers, limits: count, taken, records: verdict.records, charged }
    }
}

impl Limiter {
    /// Encodes and signs the ticket of an admitted request.
    #[must_use]
    pub fn issue(&self, ticket: Ticket, id: &ReservationId) -> Vec<u8> {
        self.tickets.issue(ticket, id)
    }

    /// Stores the ticket of an admitted request, in case the gateway never receives it. Returns false if the request
    /// has already ended. The caller must then roll back.
    #[must_use]
    pub fn open(&self, id: &ReservationId, ticket: &[u8], reservation: &Reservation) -> bool {
        let is_open = self.open.admitted(id, ticket);
        for (quota, consumer, amount) in reservation.charged.iter().filter(|_| is_open) {
            self.recorder.charged(&Charged { quota, consumer, amount: *amount });
        }
        is_open
    }

    /// Gives back everything that a request took, including amounts of limits that count requests, because the pool did
    /// not admit the request.
    pub async fn roll_back(&self, id: &ReservationId, reservation: Reservation) {
        if reservation.taken.is_empty() {
            return;
        }
        let taken = reservation.taken.iter();
        let entries = taken.map(|(meter, state)| Entry::settling(meter, state, 0)).collect();
        for (meter, _) in &reservation.taken {
            self.refusals.remove(&meter.bucket, &meter.name);
        }
        let by = Settler::rollback();
        let settlement = Settlement { id: id.clone(), records: reservation.records, entries, tokens: 0, by };
        if let Err(error) = self.counters.settle(settlement).await {
            tracing::debug!(%error, "the store did not roll back a reservation");
        }
    }
}
