//! Settles a request that has ended: replaces the reserved amounts with the charge.

use std::sync::Arc;

use evenkeel_domain::{
    StoreError,
    clock::unix_ms,
    limit::{AMOUNT_MAX, Generation, RequestBody, request_body::is_unknown},
    usage::Outcome,
};
use evenkeel_store::counters::{Entry, ReservationId, Settlement};

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

/// A request that has been settled.
pub struct Settled {
    /// The attributes at the request's admission, with the response's model if the request named no model.
    pub ticket: Ticket,
    /// The charge of the request.
    pub charge: Charge,
    /// Whether this call settled the request. `None` if nothing was reserved, because the store then cannot know.
    pub first: Option<bool>,
    /// Whether this sidecar admitted the request and saw no earlier settlement.
    pub was_open: bool,
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

    /// Settles a request's reservations. `late` replaces what the ticket states about the request's body. `model` is the
    /// model that the response named.
    ///
    /// # Errors
    /// If the store fails, and the limits have no policy for that.
    pub async fn settle(
        &self,
        id: &ReservationId,
        OpenedTicket { mut ticket, was_open }: OpenedTicket,
        late: Option<&LateBody>,
        model: &str,
        report: &UsageReport,
    ) -> Result<Settled, StoreError> {
        let compiled = self.compiled();
        if let Some(late) = late {
            self.correct(&mut ticket, late, &compiled);
        }
        if is_unknown(&ticket.model) && !model.is_empty() {
            model.clone_into(&mut ticket.model);
        }
        let charge = Charge::of(report, &ticket, model, &self.estimates, &compiled.rules);
        if ticket.records.is_empty() {
            // A repeated settlement must not count again, and nothing else shows that it is repeated.
            if was_open {
                self.learn(&compiled, &ticket, report, &charge);
            }
            return Ok(Settled { ticket, charge, first: None, was_open });
        }
        let records = std::mem::take(&mut ticket.records);
        let now_ms = unix_ms();
        let settled: Vec<(&compiled::CompiledLimit, Entry)> = std::mem::take(&mut ticket.debits)
            .into_iter()
            .filter_map(|debit| entry(&compiled, debit, &charge, now_ms))
            .collect();
        for (_, entry) in settled.iter().filter(|(_, entry)| entry.actual < entry.reserved) {
            self.refusals.remove(&entry.bucket, &entry.name);
        }
        let amounts: Vec<_> = settled.iter().map(|(of, entry)| (*of, entry.reserved, entry.actual)).collect();
        let entries = settled.into_iter().map(|(_, entry)| entry).collect();
        let settlement = Settlement { id: id.clone(), records, entries, tokens: charge.tokens.total() };
        let first = self.counters.settle(settlement).await?;
        if first {
            self.learn(&compiled, &ticket, report, &charge);
        }
        for (of, reserved, amount) in
            amounts.into_iter().filter(|(of, ..)| first && !of.definition.is_concurrency())
        {
            of.counters.settled(reserved, amount);
            if of.definition.is_quota() {
                self.recorder.charged(&Charged { quota: of.name(), consumer: &ticket.consumer, amount });
            }
        }
        Ok(Settled { ticket, charge, first: Some(first), was_open })
    }
}

impl Limiter {
    /// Learns from the first settlement of a typical request.
    fn learn(&self, compiled: &Compiled, ticket: &Ticket, report: &UsageReport, charge: &Charge) {
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
