//! Limits and quotas: what applies to a request, what is reserved when it is admitted and charged when it has ended,
//! and their administration.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;

use crate::{
    activity::{Charged, Metered, Recorder, RefusalFacts},
    clock::unix_ms,
    domain::limit::{AMOUNT_MAX, Facts, LimitRules, Meter, Rule},
    store::{
        StoreError,
        counters::{Counters, Ground, Note, Reading, Renewal, ReservationId, Reserve, Settlement, Verdict},
    },
    telemetry::Metrics,
};

mod answer;
mod charge;
mod compiled;
pub mod estimates;
pub mod explain;
mod open;
pub mod overrides;
pub mod own;
pub mod quotas;
pub mod refusals;
mod ticket;

pub use answer::{Header, Refusal};
pub use charge::{Charge, Ending, Told};
pub use ticket::{TICKET_BYTES_MAX, Ticket};

use compiled::{Chosen, Compiled};
use estimates::{Estimate, Estimates};
use open::Open;
use overrides::Overrides;
use refusals::Refusals;
use ticket::Taking;

/// Holds requests against limits and quotas.
pub struct Limiter {
    rules: Arc<ArcSwap<LimitRules>>,
    compiled: ArcSwap<Compiled>,
    overrides: Arc<ArcSwap<Overrides>>,
    counters: Arc<dyn Counters>,
    estimates: Estimates,
    refusals: Refusals,
    open: Open,
    recorder: Arc<Recorder>,
    metrics: Arc<Metrics>,
}

/// A request, before it is admitted.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// What limits look at.
    pub facts: Facts,
    /// Its session, for the ledger.
    pub session: String,
    /// Size of its prompt in bytes; 0 when unknown.
    pub prompt_bytes: u64,
    /// Output tokens it allows; 0 when it names no bound.
    pub max_output_tokens: u64,
}

/// A request and what it is counted by.
pub struct Selection {
    compiled: Arc<Compiled>,
    chosen: Vec<Chosen>,
    estimate: Estimate,
}

impl Selection {
    /// Whether nothing applies.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chosen.is_empty()
    }
}

/// A request that the limits let pass.
pub struct Pass {
    /// To go to the gateway; often empty.
    pub ticket: Vec<u8>,
    /// The ticket is to be shown in KeepAlives: the request counts as running.
    pub show_ticket: bool,
    /// Fields for the client.
    pub headers: Vec<Header>,
    /// How many limits and quotas it was held against.
    pub limits: usize,
    /// What to give back should it not be admitted after all.
    taken: Vec<(Meter, Reading)>,
    /// Where that is noted.
    notes: Vec<Note>,
    /// Quotas that count requests, and so are charged with it: name, whose, how much.
    charged: Vec<(Arc<str>, String, u64)>,
}

impl Pass {
    /// Whose request it is, for who asks why it was refused after all.
    #[must_use]
    pub fn facts(&self) -> RefusalFacts {
        let Ticket { consumer, model, .. } = Ticket::decode(&self.ticket).unwrap_or_default();
        RefusalFacts { consumer, model, ..RefusalFacts::default() }
    }
}

/// The answer to a request.
pub enum Outcome {
    /// It may pass.
    Pass(Pass),
    /// It may not.
    Refused(Refusal),
    /// The store is unavailable, and a limit is closed then.
    Closed(RefusalFacts),
}

/// What became of a request that has ended.
pub struct Settled {
    /// Its ticket.
    pub ticket: Ticket,
    /// What it is charged.
    pub charge: Charge,
    /// What that costs, in millionths of the currency.
    pub cost: u64,
    /// Whether it was settled now; `None` where nothing was reserved, so that this cannot be told.
    pub first: Option<bool>,
    /// Whether this sidecar admitted it and had not heard of its end.
    pub was_open: bool,
}

impl Limiter {
    /// Over these rules and counters. A running request not renewed for `holder_ttl` is not counted any more.
    #[must_use]
    pub fn new(
        rules: Arc<ArcSwap<LimitRules>>,
        overrides: Arc<ArcSwap<Overrides>>,
        counters: Arc<dyn Counters>,
        holder_ttl: Duration,
        recorder: Arc<Recorder>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let ttl_ms = holder_ttl.as_millis() as u64;
        let compiled = Compiled::new(rules.load_full(), ttl_ms, &metrics.limits);
        Self {
            rules,
            compiled: ArcSwap::from_pointee(compiled),
            overrides,
            counters,
            estimates: Estimates::default(),
            refusals: Refusals::default(),
            open: Open::default(),
            recorder,
            metrics,
        }
    }

    /// The rules in force, ready for requests.
    fn compiled(&self) -> Arc<Compiled> {
        let compiled = self.compiled.load();
        let rules = self.rules.load();
        if Arc::ptr_eq(&compiled.rules, &rules) {
            return Arc::clone(&compiled);
        }
        let new = Arc::new(Compiled::new(Arc::clone(&rules), compiled.ttl_ms(), &self.metrics.limits));
        self.compiled.store(Arc::clone(&new));
        new
    }

    /// Of each limit the share that its fullest key has used, as this sidecar last saw it.
    #[must_use]
    pub fn fullest(&self) -> Vec<(Arc<str>, f64)> {
        let compiled = self.compiled();
        let mut fullest = self.recorder.fullest();
        fullest.retain(|(limit, _)| compiled.by_name(limit).is_some());
        fullest
    }

    /// Headers that gateways have to pass on for the rules in force.
    #[must_use]
    pub fn wanted_headers(&self) -> Vec<String> {
        self.compiled().wanted_headers.clone()
    }

    /// Consumers that may ask about quotas, and change them, through a gateway.
    #[must_use]
    pub fn quota_admins(&self) -> Vec<String> {
        self.rules.load().quota_admins.clone()
    }

    /// What a request is counted by; the refusal where one is known to be due.
    ///
    /// # Errors
    /// The refusal.
    pub fn select(&self, ask: &Ask) -> Result<Selection, Refusal> {
        let compiled = self.compiled();
        let estimate = self.estimates.estimate(
            &compiled.rules,
            &ask.facts.model,
            ask.prompt_bytes,
            ask.max_output_tokens,
        );
        let chosen = compiled.choose(&ask.facts, &self.overrides.load(), &estimate, unix_ms());
        // Only what refuses is known, and told.
        let known =
            chosen.iter().filter_map(|c| self.refusals.recall(&c.meter).map(|known| (c.clone(), known)));
        let (refusing, readings): (Vec<Chosen>, Vec<Reading>) = known.unzip();
        match answer::refusal(&compiled, &refusing, &readings) {
            Some(mut refusal) => {
                refusal.facts.consumer.clone_from(&ask.facts.consumer);
                refusal.facts.model.clone_from(&ask.facts.model);
                self.metrics.limit_refusals_remembered.inc();
                refusing.iter().for_each(|chosen| compiled.entries[chosen.entry].counters.refused.inc());
                Err(refusal)
            }
            None => Ok(Selection { compiled, chosen, estimate }),
        }
    }

    /// Reserves for a request.
    ///
    /// # Errors
    /// Where the store fails and there is nothing to fall back on.
    pub async fn reserve(
        &self,
        ask: Ask,
        selection: Selection,
        id: &ReservationId,
    ) -> Result<Outcome, StoreError> {
        let Selection { compiled, chosen, estimate } = selection;
        let meters: Vec<Meter> = chosen.iter().map(|chosen| chosen.meter.clone()).collect();
        let verdict = if meters.is_empty() {
            Verdict { admitted: true, ..Verdict::default() }
        } else {
            let settles = meters.iter().any(|meter| meter.provisional);
            self.counters.reserve(Reserve { id: settles.then(|| id.clone()), meters }).await?
        };
        if verdict.ground == Ground::Closed {
            let Facts { consumer, model, .. } = ask.facts;
            return Ok(Outcome::Closed(RefusalFacts { consumer, model, ..RefusalFacts::default() }));
        }
        self.count(&compiled, &chosen, &verdict);
        if verdict.ground == Ground::Shared {
            self.record(&compiled, &chosen, &verdict, &ask.facts.consumer);
        }
        if !verdict.admitted {
            for (chosen, reading) in chosen.iter().zip(&verdict.readings) {
                self.refusals.note(&chosen.meter, reading);
            }
            if let Some(mut refusal) = answer::refusal(&compiled, &chosen, &verdict.readings) {
                (refusal.facts.consumer, refusal.facts.model) = (ask.facts.consumer, ask.facts.model);
                return Ok(Outcome::Refused(refusal));
            }
        }
        let headers = match verdict.ground {
            Ground::Shared => answer::headers(&compiled, &chosen, &verdict.readings),
            _ => Vec::new(),
        };
        Ok(Outcome::Pass(Self::pass(ask, chosen, estimate, verdict, headers)))
    }

    fn pass(
        ask: Ask,
        chosen: Vec<Chosen>,
        estimate: Estimate,
        verdict: Verdict,
        headers: Vec<Header>,
    ) -> Pass {
        let show_ticket = chosen.iter().any(|chosen| matches!(chosen.meter.rule, Rule::Running { .. }));
        let takings = chosen.iter().zip(&verdict.readings);
        let takings =
            takings.filter(|(chosen, _)| chosen.meter.provisional).map(|(chosen, reading)| Taking {
                bucket: Arc::clone(&chosen.meter.bucket),
                name: Arc::clone(&chosen.meter.name),
                window: reading.window,
                reserved: reading.taken,
                rate: if let Rule::TokenBucket { amount, .. } = chosen.meter.rule { amount } else { 0 },
            });
        let consumer = ask.facts.consumer;
        let charged = chosen.iter().zip(&verdict.readings).filter(|(chosen, _)| {
            let is_quota = matches!(chosen.meter.rule, Rule::Prepaid { .. } | Rule::Budget { .. });
            is_quota && !chosen.meter.provisional && verdict.ground == Ground::Shared
        });
        let charged = charged
            .map(|(chosen, reading)| (Arc::clone(&chosen.meter.name), consumer.clone(), reading.taken))
            .collect();
        let ticket = Ticket {
            consumer,
            model: ask.facts.model,
            session: ask.session,
            prompt_bytes: ask.prompt_bytes,
            output_tokens: estimate.output.ceil() as u64,
            notes: verdict.notes.clone(),
            takings: takings.collect(),
        };
        // What was counted here and not noted cannot be given back: the store knows nothing of it.
        let limits = chosen.len();
        let is_known = verdict.ground == Ground::Shared || !verdict.notes.is_empty();
        let taken = chosen.into_iter().map(|chosen| chosen.meter).zip(verdict.readings);
        let taken = if is_known { taken.collect() } else { Vec::new() };
        Pass { ticket: ticket.encode(), show_ticket, headers, limits, taken, notes: verdict.notes, charged }
    }

    fn count(&self, compiled: &Compiled, chosen: &[Chosen], verdict: &Verdict) {
        for (chosen, reading) in chosen.iter().zip(&verdict.readings) {
            let counters = &compiled.entries[chosen.entry].counters;
            let over =
                reading.over || (verdict.admitted && chosen.meter.shadow && is_over(&chosen.meter, reading));
            match (over, chosen.meter.shadow) {
                (true, true) => counters.shadow_refused.inc(),
                (true, false) => counters.refused.inc(),
                (false, _) if verdict.admitted => counters.admitted.inc(),
                (false, _) => {}
            }
        }
    }

    /// Tells what was found, for those who watch.
    fn record(&self, compiled: &Compiled, chosen: &[Chosen], verdict: &Verdict, consumer: &str) {
        let found = chosen.iter().zip(&verdict.readings);
        self.recorder.metered(found.clone().map(|(chosen, reading)| {
            let (meter, is_quota) = (&chosen.meter, compiled.entries[chosen.entry].source.is_quota());
            let (amount, level) = match meter.rule {
                Rule::Prepaid { .. } => (0, reading.used),
                Rule::Budget { .. } => (reading.amount, reading.amount.saturating_sub(reading.used)),
                _ => (reading.amount, reading.used),
            };
            Metered {
                name: &meter.name,
                bucket: &meter.bucket,
                amount,
                level,
                reset_ms: reading.reset_ms,
                shadow: meter.shadow,
                quota_of: is_quota.then_some(consumer),
            }
        }));
    }

    /// A request that passed goes out: its ticket is kept for the case that its gateway never gets it. False: the
    /// request has ended meanwhile, and is to be given back.
    #[must_use]
    pub fn note_open(&self, id: &ReservationId, pass: &Pass) -> bool {
        let is_open = self.open.admitted(id, &pass.ticket);
        for (quota, consumer, amount) in pass.charged.iter().filter(|_| is_open) {
            self.recorder.charged(&Charged { quota, consumer, amount: *amount });
        }
        is_open
    }

    /// Gives back all that a request took, also what counts requests: it was not admitted after all.
    pub async fn cancel(&self, id: &ReservationId, pass: Pass) {
        if pass.taken.is_empty() {
            return;
        }
        let entries = pass.taken.iter().map(|(meter, reading)| meter.entry(reading, 0)).collect();
        for (meter, _) in &pass.taken {
            self.refusals.forget(&meter.bucket, &meter.name);
        }
        let taken = Settlement { id: id.clone(), notes: pass.notes, entries };
        if let Err(error) = self.counters.settle(taken).await {
            tracing::debug!(%error, "reservation not given back");
        }
    }

    /// Charges a request that has ended. `ticket` is what its gateway shows; where that is empty, what this sidecar
    /// remembers serves. `model` is what the response named: it serves where the request named none. `None` where nothing is
    /// known of the request.
    ///
    /// # Errors
    /// Where the store fails and there is nothing to fall back on.
    pub async fn settle(
        &self,
        id: &ReservationId,
        ticket: &[u8],
        model: &str,
        told: &Told,
    ) -> Result<Option<Settled>, StoreError> {
        let kept = self.open.ended(id, ticket.is_empty());
        let was_open = kept.is_some();
        let ticket = if ticket.is_empty() { kept.as_deref().unwrap_or_default() } else { ticket };
        let Some(mut ticket) = Ticket::decode(ticket) else { return Ok(None) };
        if ticket.model.is_empty() {
            model.clone_into(&mut ticket.model);
        }
        let compiled = self.compiled();
        let model = &ticket.model;
        let expected_input = || self.estimates.estimate(&compiled.rules, model, ticket.prompt_bytes, 0).input;
        let charge = Charge::of(told, &ticket, &self.estimates, expected_input);
        let cost = compiled.rules.prices.cost(model, &charge.tokens);
        if told.ending == Ending::Complete && told.is_final && told.tokens.is_some() {
            self.estimates.learn(model, ticket.prompt_bytes, told.output_bytes, &charge.tokens);
        }
        if ticket.notes.is_empty() {
            return Ok(Some(Settled { ticket, charge, cost, first: None, was_open }));
        }
        let now_ms = unix_ms();
        let mut entries = Vec::with_capacity(ticket.takings.len());
        let mut charges = Vec::with_capacity(ticket.takings.len());
        let notes = std::mem::take(&mut ticket.notes);
        for taking in std::mem::take(&mut ticket.takings) {
            // One whose limit is no longer configured counts nowhere.
            let Some(entry) = compiled.by_name(&taking.name) else { continue };
            let counts = entry.source.counts();
            let actual = if entry.source.is_concurrency() {
                0
            } else {
                charge.counted(counts, &compiled.rules.prices, &ticket.model).min(AMOUNT_MAX)
            };
            if !entry.source.is_concurrency() {
                charges.push((entry, taking.reserved, actual));
            }
            entries.push(crate::store::counters::Entry {
                rule: compiled.rule_to_settle(entry, taking.rate, now_ms),
                bucket: taking.bucket,
                name: Arc::clone(entry.name()),
                window: taking.window,
                reserved: taking.reserved,
                actual,
                provisional: true,
            });
        }
        let reserved = (entries.iter()).filter(|entry| entry.actual < entry.reserved);
        reserved.for_each(|entry| self.refusals.forget(&entry.bucket, &entry.name));
        let first = self.counters.settle(Settlement { id: id.clone(), notes, entries }).await?;
        for (entry, reserved, charged) in charges.iter().filter(|_| first) {
            entry.counters.settled(*reserved, *charged);
            if entry.source.is_quota() {
                let (quota, consumer) = (entry.name(), &*ticket.consumer);
                self.recorder.charged(&Charged { quota, consumer, amount: *charged });
            }
        }
        Ok(Some(Settled { ticket, charge, cost, first: Some(first), was_open }))
    }

    /// Keeps running requests counted: the tickets a gateway shows in a KeepAlive.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn renew(&self, tickets: Vec<(ReservationId, Vec<u8>)>) -> Result<(), StoreError> {
        let compiled = self.compiled();
        let mut renewals = Vec::new();
        for (id, bytes) in tickets {
            let takings = Ticket::decode(&bytes).map(|ticket| ticket.takings).unwrap_or_default();
            let running = |taking: &Taking| {
                compiled.by_name(&taking.name).is_some_and(|entry| entry.source.is_concurrency())
            };
            renewals.extend(takings.into_iter().filter(running).map(|taking| Renewal {
                id: id.clone(),
                bucket: taking.bucket,
                name: taking.name,
                ttl_ms: compiled.ttl_ms(),
            }));
        }
        if renewals.is_empty() { Ok(()) } else { self.counters.renew(renewals).await }
    }

    /// Forgets what is too old. To be called now and then.
    pub fn purge(&self) {
        self.open.purge();
    }
}

/// Whether a counter in shadow mode would have refused what it took.
fn is_over(meter: &Meter, reading: &Reading) -> bool {
    match meter.rule {
        Rule::Prepaid { .. } => reading.taken < meter.cost,
        _ => reading.used > reading.amount,
    }
}
