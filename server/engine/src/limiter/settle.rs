//! Settles a request that has ended: replaces the reserved amounts with the charge.

use std::sync::Arc;

use evenkeel_domain::{
    StoreError,
    clock::unix_ms,
    limit::{AMOUNT_MAX, Generation, RequestBody, request_body::is_unknown},
    usage::Outcome,
};
use evenkeel_store::counters::{Entry, ReservationId, Settlement, Settler};

use super::{
    Limiter,
    charge::{Charge, UsageReport},
    compiled::{self, Compiled},
    estimates::Sample,
    ticket::{Debit, Ticket},
    ticket_keys::{Rejected, TicketKeys},
};
use crate::activity::Charged;

/// What a gateway read of a request's body after the request's admission.
#[derive(Clone, Debug)]
pub struct LateBody {
    /// The model that the body names. Unknown if it names none.
    pub model: String,
    pub body: RequestBody,
}

/// The ticket of a request that has ended, from the gateway or from this sidecar.
pub struct OpenedTicket {
    ticket: Ticket,
    /// Whether this sidecar admitted the request and saw no earlier settlement.
    was_open: bool,
}

/// A request that has ended, before the store has decided whether this settlement is the first.
pub struct Settling {
    /// The attributes at the request's admission, with the response's model if the request named no model.
    pub ticket: Ticket,
    /// The charge of the request.
    pub charge: Charge,
    /// Whether this sidecar admitted the request and saw no earlier settlement.
    pub was_open: bool,
    pub report: UsageReport,
    compiled: Arc<Compiled>,
    /// For each limit and quota that is charged when a request ends: name, reserved amount, charged amount.
    amounts: Vec<(Arc<str>, u64, u64)>,
}

impl Settling {
    /// Returns whether the configuration names the request's model.
    #[must_use]
    pub fn names_model(&self) -> bool {
        self.compiled.rules.names_model(&self.ticket.model)
    }
}

impl Limiter {
    /// Verifies the ticket that a gateway sent with a settlement, and returns its content. If the gateway sent none,
    /// returns the ticket that this sidecar stored for the request; `None` if there is no stored ticket either.
    ///
    /// # Errors
    /// If the ticket does not verify. Nothing has changed then, so a later settlement can still bring the right ticket.
    pub fn open_ticket(&self, id: &ReservationId, sent: &[u8]) -> Result<Option<OpenedTicket>, Rejected> {
        if sent.is_empty() {
            let kept = self.open.ended(id, true);
            let ticket = kept.as_deref().and_then(TicketKeys::open_own);
            return Ok(ticket.map(|ticket| OpenedTicket { ticket, was_open: true }));
        }
        let ticket = self.tickets.open(sent, id).inspect_err(|rejected| self.rejected(id, *rejected))?;
        Ok(Some(OpenedTicket { ticket, was_open: self.open.ended(id, false).is_some() }))
    }

    /// Computes the charge of a request, and the settlement of its reservations; `None` if it has no reservation in a
    /// store. `late` replaces what the ticket states about the request's body. `model` is the model that the response
    /// named.
    #[must_use]
    pub fn charge(
        &self,
        id: &ReservationId,
        OpenedTicket { mut ticket, was_open }: OpenedTicket,
        late: Option<&LateBody>,
        model: &str,
        report: UsageReport,
    ) -> (Settling, Option<Settlement>) {
        let compiled = self.compiled();
        if let Some(late) = late {
            self.correct(&mut ticket, late, &compiled);
        }
        if is_unknown(&ticket.model) && !model.is_empty() {
            model.clone_into(&mut ticket.model);
        }
        let charge = Charge::of(&report, &ticket, model, &self.estimates, &compiled.rules);
        let records = std::mem::take(&mut ticket.records);
        let debits = std::mem::take(&mut ticket.debits);
        let mut settling = Settling { ticket, charge, was_open, report, compiled, amounts: Vec::new() };
        if records.is_empty() {
            return (settling, None);
        }
        let now_ms = unix_ms();
        let mut entries = Vec::with_capacity(debits.len());
        for debit in debits {
            let Some((of, entry)) = entry(&settling.compiled, debit, &charge, now_ms) else { continue };
            if entry.actual < entry.reserved {
                self.refusals.remove(&entry.bucket, &entry.name);
            }
            if !of.definition.is_concurrency() {
                settling.amounts.push((Arc::clone(of.name()), entry.reserved, entry.actual));
            }
            entries.push(entry);
        }
        let by = Settler::new(!was_open);
        let settlement = Settlement { id: id.clone(), records, entries, tokens: charge.tokens.total(), by };
        (settling, Some(settlement))
    }

    /// Sends a settlement to the store. Calls `when_settled` when the store has decided whether it is the first, which
    /// may be after an outage.
    ///
    /// # Errors
    /// If the store fails, and the limits have no policy for that.
    pub async fn settle(
        &self,
        settlement: Settlement,
        when_settled: impl FnOnce(bool) + Send + 'static,
    ) -> Result<(), StoreError> {
        self.counters.settle_then(settlement, Box::new(when_settled)).await
    }

    /// Counts the charge of a request's first settlement, and learns from it.
    pub fn settled(&self, settling: &Settling) {
        let Settling { ticket, compiled, amounts, .. } = settling;
        self.learn(settling);
        for (name, reserved, amount) in amounts {
            let Some(of) = compiled.by_name(name) else { continue };
            of.counters.settled(*reserved, *amount);
            if of.definition.is_quota() {
                self.recorder.charged(&Charged { quota: name, consumer: &ticket.consumer, amount: *amount });
            }
        }
    }

    /// Learns from a typical request.
    fn learn(&self, Settling { ticket, charge, report, compiled, .. }: &Settling) {
        let is_typical = report.outcome == Outcome::Success && ticket.generation == Generation::Immediate;
        if is_typical && report.tokens.is_some() && !charge.estimated {
            let sample = Sample {
                prompt_bytes: ticket.prompt_bytes,
                answers: ticket.choices.max(1),
                output_max: ticket.output_max,
                output_bytes: report.output_bytes,
                tokens: charge.tokens,
            };
            self.estimates.learn(&compiled.rules, &ticket.model, &sample);
        }
    }

    /// Replaces what a ticket states about the request's body by what the gateway read later.
    fn correct(&self, ticket: &mut Ticket, late: &LateBody, compiled: &Compiled) {
        if !is_unknown(&late.model) {
            ticket.model.clone_from(&late.model);
        }
        let RequestBody { prompt_bytes, choices, generation, .. } = late.body;
        (ticket.prompt_bytes, ticket.choices, ticket.generation) = (prompt_bytes, choices, generation);
        let estimate = self.estimates.estimate(&compiled.rules, &ticket.model, &late.body);
        (ticket.output_tokens, ticket.output_max) = (estimate.output.ceil() as u64, estimate.output_max);
    }
}

/// Builds the settlement of one debit. Returns `None` if the limit of the debit is no longer configured.
fn entry<'c>(
    compiled: &'c Compiled,
    debit: Debit,
    charge: &Charge,
    now_ms: u64,
) -> Option<(&'c compiled::CompiledLimit, Entry)> {
    let of = compiled.by_name(&debit.name)?;
    let is_concurrency = of.definition.is_concurrency();
    let actual = if is_concurrency { 0 } else { charge.amount(of.definition.counts()).min(AMOUNT_MAX) };
    let entry = Entry {
        rule: compiled.rule_to_settle(of, debit.rate, now_ms),
        bucket: debit.bucket,
        name: Arc::clone(of.name()),
        window: debit.window,
        reserved: debit.reserved,
        actual,
        provisional: true,
    };
    Some((of, entry))
}
