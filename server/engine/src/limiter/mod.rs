//! Limits and quotas: selects the limits and quotas that apply to a request, reserves its estimated usage when it is
//! admitted, and charges its actual usage when it has ended. Submodules administer overrides and quotas.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use evenkeel_domain::{
    StoreError,
    clock::unix_ms,
    limit::{Attributes, CounterRule, Generation, LimitRules, Meter, RequestBody},
    verdict::{Reason, Refusal},
};
use evenkeel_store::counters::{
    CounterState, Counters, Renewal, ReservationId, Reserve, ReserveBasis, Verdict,
};
use evenkeel_telemetry::Metrics;
use parking_lot::Mutex;
use tracing::warn;

use crate::activity::{Metered, Recorder};

mod charge;
mod compiled;
pub mod direct_response;
pub mod estimates;
pub mod explain;
mod open_requests;
pub mod override_key;
pub mod overrides;
pub mod quotas;
pub mod refusal_cache;
mod reservation;
mod response;
mod settle;
mod ticket;
pub mod ticket_keys;

pub use charge::{Charge, UsageReport};
use compiled::{Compiled, SelectedLimit};
use estimates::{Estimate, Estimates};
use open_requests::OpenRequests;
use overrides::OverrideTable;
use refusal_cache::RefusalCache;
pub use reservation::Reservation;
pub use response::Header;
pub use settle::{LateBody, OpenedTicket, Settling};
use ticket::Debit;
pub use ticket::{TICKET_BYTES_MAX, Ticket};
use ticket_keys::{Rejected, TicketKeys};

/// Number of tickets in a list that are verified before other tasks get their turn. It takes about 100 µs.
const VERIFIED_AT_ONCE: usize = 256;
/// Minimum time between two log lines about rejected tickets.
const REJECTIONS_QUIET: Duration = Duration::from_secs(10);

/// Reserves the estimated usage of requests against limits and quotas, and then charges the actual usage.
pub struct Limiter {
    rules: Arc<ArcSwap<LimitRules>>,
    compiled: ArcSwap<Compiled>,
    overrides: Arc<ArcSwap<OverrideTable>>,
    counters: Arc<dyn Counters>,
    estimates: Estimates,
    refusals: RefusalCache,
    open: OpenRequests,
    tickets: Arc<TicketKeys>,
    /// When a rejected ticket was last logged.
    rejection_logged: Mutex<Option<Instant>>,
    recorder: Arc<Recorder>,
    metrics: Arc<Metrics>,
}

/// A request before its admission, with the properties that limits use.
#[derive(Clone, Debug, Default)]
pub struct LimitRequest {
    /// The attributes that conditions and keys use.
    pub attributes: Attributes,
    /// The session id, for the ledger.
    pub session: String,
    /// What the request asks of the model.
    pub body: RequestBody,
}

/// The limits and quotas that apply to one request.
pub struct Selection {
    compiled: Arc<Compiled>,
    limits: Vec<SelectedLimit>,
    estimate: Estimate,
}

impl Selection {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.limits.is_empty()
    }
}

/// The result of [`Limiter::reserve`].
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every request has this variant, and a box would cost an allocation"
)]
pub enum Reserved {
    /// All limits admit the request, and its amounts are reserved.
    Held(Reservation),
    Refused(Box<Refusal>),
}

impl Selection {
    /// Returns the estimated size of the request's prompt in tokens. `None` if the gateway does not know it.
    #[must_use]
    pub fn prompt_tokens(&self, body: &RequestBody) -> Option<u64> {
        (body.prompt_bytes > 0 || body.generation == Generation::Nothing)
            .then(|| self.estimate.input.ceil() as u64)
    }
}

impl Limiter {
    /// Creates a limiter. A request under a concurrency limit counts until `holder_ttl` after its last renewal.
    #[must_use]
    pub fn new(
        rules: Arc<ArcSwap<LimitRules>>,
        overrides: Arc<ArcSwap<OverrideTable>>,
        counters: Arc<dyn Counters>,
        holder_ttl: Duration,
        tickets: Arc<TicketKeys>,
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
            refusals: RefusalCache::default(),
            open: OpenRequests::default(),
            tickets,
            rejection_logged: Mutex::default(),
            recorder,
            metrics,
        }
    }

    /// Returns the active rules in compiled form. Compiles them if they have changed.
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

    /// Returns, for each limit, the used fraction of its fullest key as this sidecar last saw it.
    #[must_use]
    pub fn fullest(&self) -> Vec<(Arc<str>, f64)> {
        let compiled = self.compiled();
        let mut fullest = self.recorder.fullest_shares();
        fullest.retain(|(limit, _)| compiled.by_name(limit).is_some());
        fullest
    }

    /// Returns the request headers that gateways must pass on for the active rules.
    #[must_use]
    pub fn wanted_headers(&self) -> Vec<String> {
        self.compiled().wanted_headers.clone()
    }

    /// Returns whether the active rules use the client's address.
    #[must_use]
    pub fn wants_source_ip(&self) -> bool {
        self.compiled().wants_source_ip
    }

    /// Returns the active rules.
    #[must_use]
    pub fn rules(&self) -> Arc<LimitRules> {
        self.rules.load_full()
    }

    /// Selects the limits and quotas that apply to a request.
    ///
    /// # Errors
    /// Returns the refusal if a cached refusal still applies.
    pub fn select(&self, request: &LimitRequest) -> Result<Selection, Box<Refusal>> {
        let compiled = self.compiled();
        let LimitRequest { attributes, body, .. } = request;
        let estimate = self.estimates.estimate(&compiled.rules, &attributes.model, body);
        let limits = compiled.select(attributes, &self.overrides.load(), &estimate, unix_ms());
        let known = limits.iter().filter_map(|l| self.refusals.get(&l.meter).map(|known| (l.clone(), known)));
        let (refusing, states): (Vec<SelectedLimit>, Vec<CounterState>) = known.unzip();
        match response::refusal(&compiled, &refusing, &states, attributes) {
            Some(refusal) => {
                self.metrics.limit_refusals_cached.inc();
                refusing.iter().for_each(|limit| compiled.entries[limit.entry].counters.refused.inc());
                Err(Box::new(refusal))
            }
            None => Ok(Selection { compiled, limits, estimate }),
        }
    }

    /// Reserves the estimated usage of a request, in all limits and quotas or in none.
    ///
    /// # Errors
    /// If the store fails, and the limits have no policy for that.
    pub async fn reserve(
        &self,
        request: LimitRequest,
        selection: Selection,
        id: &ReservationId,
    ) -> Result<Reserved, StoreError> {
        let Selection { compiled, limits, estimate } = selection;
        let meters: Vec<Meter> = limits.iter().map(|limit| limit.meter.clone()).collect();
        let verdict = if meters.is_empty() {
            Verdict { admitted: true, ..Verdict::default() }
        } else {
            let settles = meters.iter().any(|meter| meter.provisional);
            self.counters.reserve(Reserve { id: settles.then(|| id.clone()), meters }).await?
        };
        if verdict.basis == ReserveBasis::Closed {
            let Attributes { consumer, model, .. } = request.attributes;
            let refusal = Refusal::of_pool(Reason::StoreUnavailable, 1, consumer, model);
            return Ok(Reserved::Refused(Box::new(refusal)));
        }
        self.count(&compiled, &limits, &verdict);
        if verdict.basis == ReserveBasis::Shared {
            self.record(&compiled, &limits, &verdict, &request.attributes.consumer);
        }
        if !verdict.admitted {
            for (limit, state) in limits.iter().zip(&verdict.states) {
                self.refusals.insert(&limit.meter, state);
            }
            if let Some(refusal) = response::refusal(&compiled, &limits, &verdict.states, &request.attributes)
            {
                return Ok(Reserved::Refused(Box::new(refusal)));
            }
        }
        let headers = match verdict.basis {
            ReserveBasis::Shared => response::headers(&compiled, &limits, &verdict.states),
            _ => Vec::new(),
        };
        Ok(Reserved::Held(Reservation::new(request, limits, estimate, verdict, headers)))
    }

    fn count(&self, compiled: &Compiled, limits: &[SelectedLimit], verdict: &Verdict) {
        for (limit, state) in limits.iter().zip(&verdict.states) {
            let counters = &compiled.entries[limit.entry].counters;
            let over = state.over || (verdict.admitted && limit.meter.shadow && is_over(&limit.meter, state));
            match (over, limit.meter.shadow) {
                (true, true) => counters.shadow_refused.inc(),
                (true, false) => counters.refused.inc(),
                (false, _) if verdict.admitted => counters.admitted.inc(),
                (false, _) => {}
            }
        }
    }

    /// Records the states of the counters, for operators.
    fn record(&self, compiled: &Compiled, limits: &[SelectedLimit], verdict: &Verdict, consumer: &str) {
        let states = limits.iter().zip(&verdict.states);
        self.recorder.metered(states.map(|(limit, state)| {
            let (meter, is_quota) = (&limit.meter, compiled.entries[limit.entry].definition.is_quota());
            let (amount, level) = match meter.rule {
                CounterRule::Prepaid { .. } => (0, state.used),
                CounterRule::Budget { .. } => (state.amount, state.amount.saturating_sub(state.used)),
                _ => (state.amount, state.used),
            };
            Metered {
                name: &meter.name,
                bucket: &meter.bucket,
                amount,
                level,
                reset_ms: state.reset_ms,
                shadow: meter.shadow,
                quota_of: is_quota.then_some(consumer),
            }
        }));
    }

    /// Renews the requests under concurrency limits whose tickets a KeepAlive contains.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn renew(&self, tickets: Vec<(ReservationId, Vec<u8>)>) -> Result<(), StoreError> {
        let compiled = self.compiled();
        let mut renewals = Vec::new();
        for (i, (id, bytes)) in tickets.into_iter().enumerate() {
            if i % VERIFIED_AT_ONCE == VERIFIED_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            let ticket = self.tickets.open(&bytes, &id).inspect_err(|rejected| self.rejected(&id, *rejected));
            let debits = ticket.map(|ticket| ticket.debits).unwrap_or_default();
            let running = |debit: &Debit| {
                compiled.by_name(&debit.name).is_some_and(|entry| entry.definition.is_concurrency())
            };
            renewals.extend(debits.into_iter().filter(running).map(|debit| Renewal {
                id: id.clone(),
                bucket: debit.bucket,
                name: debit.name,
                ttl_ms: compiled.ttl_ms(),
            }));
        }
        if renewals.is_empty() { Ok(()) } else { self.counters.renew(renewals).await }
    }

    /// Counts a ticket that changes nothing, and logs one of them now and then.
    fn rejected(&self, id: &ReservationId, rejected: Rejected) {
        match rejected {
            Rejected::NotVerified => self.metrics.tickets_rejected.not_verified.inc(),
            Rejected::TooOld => self.metrics.tickets_rejected.too_old.inc(),
            // It is not rejected yet.
            Rejected::KeyUnknown => return,
        }
        let mut logged = self.rejection_logged.lock();
        if logged.is_none_or(|at| at.elapsed() >= REJECTIONS_QUIET) {
            *logged = Some(Instant::now());
            let ReservationId { holder, lease } = id;
            warn!(%holder, %lease, reason = ?rejected, "a gateway sent a ticket that changes nothing (the next ones are only counted)");
        }
    }

    /// Drops tickets that are too old. The sidecar's housekeeping calls this.
    pub fn purge(&self) {
        self.open.purge();
    }
}

/// Whether a counter in shadow mode would have refused the request if it were not in shadow mode.
fn is_over(meter: &Meter, state: &CounterState) -> bool {
    match meter.rule {
        CounterRule::Prepaid { .. } => state.taken < meter.cost,
        _ => state.used > state.amount,
    }
}
