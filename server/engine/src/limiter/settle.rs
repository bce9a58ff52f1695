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
    ticket::{Debit, Ticket},
};
use crate::activity::Charged;

/// What a gateway read of a request's body after the request's admission.
#[derive(Clone, Debug)]
pub struct LateBody {
    /// The model that the body names. Unknown if it names none.
    pub model: String,
    pub body: RequestBody,
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
    /// Settles a request's reservations. If the gateway sent no `ticket`, uses the ticket that this sidecar stored for
    /// the request. Returns `None` if there is no stored ticket either. `late` replaces what the ticket states about the
    /// request's body. `model` is the model that the response named.
    ///
    /// # Errors
    /// If the store fails, and the limits have no policy for that.
    pub async fn settle(
        &self,
        id: &ReservationId,
        ticket: &[u8],
        late: Option<&LateBody>,
        model: &str,
        report: &UsageReport,
    ) -> Result<Option<Settled>, StoreError> {
        let kept = self.open.ended(id, ticket.is_empty());
        let was_open = kept.is_some();
        let ticket = if ticket.is_empty() { kept.as_deref().unwrap_or_default() } else { ticket };
        let Some(mut ticket) = Ticket::decode(ticket) else { return Ok(None) };
        let compiled = self.compiled();
        if let Some(late) = late {
            self.correct(&mut ticket, late, &compiled);
        }
        if is_unknown(&ticket.model) && !model.is_empty() {
            model.clone_into(&mut ticket.model);
        }
        let charge = Charge::of(report, &ticket, model, &self.estimates, &compiled.rules);
        let is_typical = report.outcome == Outcome::Success && ticket.generation == Generation::Immediate;
        if is_typical && report.tokens.is_some() && !charge.estimated {
            let answers = ticket.choices.max(1);
            let (prompt_bytes, output_bytes) = (ticket.prompt_bytes, report.output_bytes);
            self.estimates.learn(&ticket.model, prompt_bytes, answers, output_bytes, &charge.tokens);
        }
        if ticket.records.is_empty() {
            return Ok(Some(Settled { ticket, charge, first: None, was_open }));
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
        for (of, reserved, amount) in
            amounts.into_iter().filter(|(of, ..)| first && !of.definition.is_concurrency())
        {
            of.counters.settled(reserved, amount);
            if of.definition.is_quota() {
                self.recorder.charged(&Charged { quota: of.name(), consumer: &ticket.consumer, amount });
            }
        }
        Ok(Some(Settled { ticket, charge, first: Some(first), was_open }))
    }
}

impl Limiter {
    /// Replaces what a ticket states about the request's body by what the gateway read later.
    fn correct(&self, ticket: &mut Ticket, late: &LateBody, compiled: &Compiled) {
        if !is_unknown(&late.model) {
            ticket.model.clone_from(&late.model);
        }
        let RequestBody { prompt_bytes, choices, generation, .. } = late.body;
        (ticket.prompt_bytes, ticket.choices, ticket.generation) = (prompt_bytes, choices, generation);
        let estimate = self.estimates.estimate(&compiled.rules, &ticket.model, &late.body);
        ticket.output_tokens = estimate.output.ceil() as u64;
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
