//! The end of a request: releases its lease, replaces its reservation with the charge, and records its usage.

use std::{sync::Arc, time::Duration};

use evenkeel_domain::{DomainError, HolderId, LeaseId, PoolId, clock::DAY_MS, usage::Outcome};
use evenkeel_store::{
    Release, Undelivered,
    counters::{ReservationId, Settlement, Settler},
};
use evenkeel_telemetry::{Metrics, PoolLatencies};
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::{Admission, latency};
use crate::{
    ledger::{Ledger, UsageRecord},
    limiter::{LateBody, Limiter, OpenedTicket, Settling, UsageReport, ticket_keys::Rejected},
    prefix::{Answer, ReadTokens},
};

/// Time between two attempts while a shutdown waits for the keys of tickets.
const DRAIN_INTERVAL: Duration = Duration::from_millis(50);

/// A request that has ended.
#[derive(Clone, Debug)]
pub struct EndedRequest {
    /// `route`, `cluster`, `holder` and `lease` have the values of the admission.
    pub route: String,
    pub cluster: String,
    pub holder: HolderId,
    pub lease: LeaseId,
    /// The ticket from the admission. Empty if the gateway never received it.
    pub ticket: Vec<u8>,
    /// The model that the response named.
    pub model: String,
    /// What the gateway read of the request's body after Admit.
    pub late_body: Option<LateBody>,
    /// How the request ended, and the usage that its response reported.
    pub report: UsageReport,
    /// HTTP status of the response. 0: no response.
    pub status: u16,
    /// Time to the first byte of the response body. 0: the response had no body.
    pub first_token_ms: u64,
    /// Time to the end of the response.
    pub total_ms: u64,
    /// Whether the response came piece by piece, as the server generated it.
    pub streamed: bool,
}

impl EndedRequest {
    /// Returns what the end of the request tells about the endpoint's prefix cache.
    fn answer(&self) -> Answer {
        let UsageReport { outcome, tokens, is_final, began, cached_input_stated: is_stated, .. } =
            self.report;
        let failed = match outcome {
            Outcome::Success | Outcome::Unknown => false,
            Outcome::NotSent | Outcome::ClientError | Outcome::ServerError => true,
            Outcome::UpstreamReset | Outcome::ClientAbort | Outcome::Timeout => !began,
        };
        match tokens.filter(|_| is_final && outcome == Outcome::Success) {
            Some(tokens) => {
                Answer::Read(ReadTokens { input: tokens.input, cached: tokens.cached_input, is_stated })
            }
            None if failed => Answer::None,
            None => Answer::Unknown,
        }
    }
}

impl Admission {
    /// Settles a request. Returns whether this call released the lease. Settling is idempotent.
    ///
    /// # Errors
    /// If the ticket does not verify: nothing has changed then. If the pool's name is invalid, or an embedded store fails.
    pub async fn settle(&self, ended: EndedRequest) -> Result<bool, DomainError> {
        let id = ReservationId { holder: ended.holder.clone(), lease: ended.lease };
        let release = match self.limiter.open_ticket(&id, &ended.ticket) {
            Ok(Some(ticket)) => self.release_and_charge(&id, ticket, &ended).await,
            Ok(None) => self.release(&ended, ended.answer()).await,
            Err(Rejected::KeyUnknown) => {
                // What does not verify yet teaches nothing.
                let release = self.release(&ended, Answer::Unknown).await;
                if self.unverified.push(ended, release.as_ref().ok().copied()) {
                    self.metrics.settlements_lost.inc();
                }
                release
            }
            Err(rejected) => Err(rejection(rejected)),
        };
        release.map(Release::is_released)
    }

    /// Releases the lease and charges the request, concurrently if possible.
    async fn release_and_charge(
        &self,
        id: &ReservationId,
        ticket: OpenedTicket,
        ended: &EndedRequest,
    ) -> Result<Release, DomainError> {
        match self.charge(id, ticket, ended) {
            (recording, Some(settlement)) => {
                let settle = self.settle_limits(settlement, move |first| recording.settled(first));
                tokio::join!(self.release(ended, ended.answer()), settle).0
            }
            (recording, None) => {
                let release = self.release(ended, ended.answer()).await;
                self.record_unreserved(id, recording, release.as_ref().ok().copied()).await;
                release
            }
        }
    }

    /// Settles the requests whose tickets could not be verified before, until that time.
    pub async fn settle_unverified(&self, until: Option<Instant>) {
        let _settling = self.unverified.exclusively().await;
        for _ in 0..self.unverified.len() {
            if until.is_some_and(|until| Instant::now() >= until) {
                return;
            }
            let Some((ended, release)) = self.unverified.pop() else { return };
            let id = ReservationId { holder: ended.holder.clone(), lease: ended.lease };
            let ticket = match self.limiter.open_ticket(&id, &ended.ticket) {
                Ok(Some(ticket)) => ticket,
                Err(Rejected::KeyUnknown) => {
                    self.unverified.push(ended, release);
                    continue;
                }
                // The limiter has counted a ticket that does not verify.
                Ok(None) | Err(_) => continue,
            };
            match self.charge(&id, ticket, &ended) {
                (recording, Some(settlement)) => {
                    self.settle_limits(settlement, move |first| recording.settled(first)).await;
                }
                (recording, None) => self.record_unreserved(&id, recording, release).await,
            }
        }
    }

    /// Sends the settlements that wait, for at most `limit`: first those whose tickets could not be verified before.
    /// Returns what could not be sent.
    pub async fn drain(&self, limit: Duration) -> Undelivered {
        let until = Instant::now() + limit;
        let store = &self.balancer.store;
        loop {
            // The housekeeping may have taken settlements that it has not settled yet.
            let _ = timeout_at(until, self.unverified.exclusively()).await;
            if self.unverified.is_empty() || Instant::now() >= until {
                break;
            }
            if store.is_up() && self.tickets.refresh(true).await.is_ok() {
                self.settle_unverified(Some(until)).await;
            }
            if !self.unverified.is_empty() {
                tokio::time::sleep(DRAIN_INTERVAL).await;
            }
        }
        let mut undelivered = store.drain(until.saturating_duration_since(Instant::now())).await;
        while let Some((ended, _)) = self.unverified.pop() {
            self.metrics.settlements_lost.inc();
            undelivered.settlements += 1;
            let tokens = ended.report.tokens.map_or(0, |tokens| tokens.total());
            undelivered.tokens = undelivered.tokens.saturating_add(tokens);
        }
        undelivered
    }

    async fn release(&self, ended: &EndedRequest, answer: Answer) -> Result<Release, DomainError> {
        let EndedRequest { route, cluster, holder, lease, .. } = ended;
        self.balancer.settle(route, cluster, holder, *lease, answer).await
    }

    fn charge(
        &self,
        id: &ReservationId,
        ticket: OpenedTicket,
        ended: &EndedRequest,
    ) -> (Recording, Option<Settlement>) {
        let EndedRequest { late_body, model, report, .. } = ended;
        let (settling, settlement) = self.limiter.charge(id, ticket, late_body.as_ref(), model, *report);
        let recording = Recording {
            settling,
            has_reservation: settlement.is_some(),
            route: ended.route.clone(),
            status: ended.status,
            outcome: ended.report.outcome,
            first_token_ms: ended.first_token_ms,
            total_ms: ended.total_ms,
            streamed: ended.streamed,
            latencies: self.latencies(&ended.route, &ended.cluster),
            limiter: Arc::clone(&self.limiter),
            ledger: Arc::clone(&self.ledger),
            metrics: Arc::clone(&self.metrics),
        };
        (recording, settlement)
    }

    async fn settle_limits(&self, settlement: Settlement, when_settled: impl FnOnce(bool) + Send + 'static) {
        let lease = settlement.id.lease;
        if let Err(error) = self.limiter.settle(settlement, when_settled).await {
            self.metrics.limit_settles.error.inc();
            debug!(%error, %lease, "the store did not settle the reservation");
        }
    }

    /// Records a request without a reservation, whose lease then shows whether its settlement is the first. `release` is
    /// `None` if that failed.
    ///
    /// The sidecar that admitted the request records it as soon as it has released the lease in the store. If the lease
    /// was gone, or the store does not answer, or another sidecar admitted the request, a mark in the store decides.
    async fn record_unreserved(&self, id: &ReservationId, recording: Recording, release: Option<Release>) {
        match (release, recording.settling.was_open) {
            (Some(Release::Released), true) => recording.settled(true),
            _ if recording.outcome == Outcome::NotSent => {}
            // It was settled before.
            (Some(Release::Unknown) | None, false) => recording.settled(false),
            _ => {
                let Settling { ticket, charge, .. } = &recording.settling;
                let (day, tokens) = (ticket.issued_s * 1000 / DAY_MS, charge.tokens.total());
                let by = Settler::new(true);
                let settlement = Settlement::without_reservation(id.clone(), day, tokens, by);
                self.settle_limits(settlement, move |first| recording.settled(first)).await;
            }
        }
    }

    /// Gives back what an admission took whose request was not sent: its lease, if the pool is known, and its reservation,
    /// if this sidecar has made it.
    ///
    /// # Errors
    /// If an embedded store fails.
    pub async fn cancel(&self, pool: Option<&PoolId>, id: ReservationId) -> Result<(), DomainError> {
        let release = async {
            match pool {
                Some(pool) => {
                    let (route, cluster) = (pool.route(), pool.cluster());
                    self.balancer.settle(route, cluster, &id.holder, id.lease, Answer::None).await.map(drop)
                }
                None => Ok(()),
            }
        };
        let give_back = async {
            let Ok(Some(ticket)) = self.limiter.open_ticket(&id, &[]) else { return };
            let (settling, settlement) = self.limiter.charge(&id, ticket, None, "", UsageReport::not_sent());
            let Some(settlement) = settlement else { return };
            let limiter = Arc::clone(&self.limiter);
            let settled = move |first| {
                if first {
                    limiter.settled(&settling);
                }
            };
            if let Err(error) = self.limiter.settle(settlement, settled).await {
                debug!(%error, lease = %id.lease, "the store did not give a reservation back");
            }
        };
        tokio::join!(release, give_back).0
    }
}

/// What is recorded of a request once its first settlement is known.
struct Recording {
    settling: Settling,
    /// Whether the store settles a reservation of the request.
    has_reservation: bool,
    route: String,
    status: u16,
    outcome: Outcome,
    first_token_ms: u64,
    total_ms: u64,
    streamed: bool,
    /// `None` if the pool is invalid.
    latencies: Option<Arc<PoolLatencies>>,
    limiter: Arc<Limiter>,
    ledger: Arc<Ledger>,
    metrics: Arc<Metrics>,
}

impl Recording {
    /// Counts a settlement. If it is the first of its request, also counts the charge and the latency, and records the
    /// request in the ledger.
    fn settled(self, is_first: bool) {
        let settles = &self.metrics.limit_settles;
        match (self.has_reservation, is_first) {
            (true, true) => settles.charged.inc(),
            (true, false) => settles.repeated.inc(),
            (false, _) => {}
        }
        if !is_first {
            return;
        }
        self.limiter.settled(&self.settling);
        if self.outcome == Outcome::NotSent {
            return;
        }
        let Settling { ticket, charge, .. } = &self.settling;
        let charged = &self.metrics.charged;
        let basis = usize::from(charge.estimated);
        charged.input[basis].inc_by(charge.tokens.input);
        charged.output[basis].inc_by(charge.tokens.output);
        charged.cost.inc_by(charge.cost as f64 / 1e6);
        if let Some(latencies) = &self.latencies {
            let first_token_ms = Some(self.first_token_ms).filter(|_| self.streamed);
            latency::observe(latencies, &self.settling, first_token_ms, self.total_ms);
        }
        self.ledger.record(&UsageRecord {
            consumer: &ticket.consumer,
            model: &ticket.model,
            route: &self.route,
            session: &ticket.session,
            tokens: charge.tokens,
            estimated: charge.estimated,
            cost: charge.cost,
            status: self.status,
            outcome: self.outcome,
            first_token_ms: self.first_token_ms,
            total_ms: self.total_ms,
        });
    }
}

fn rejection(rejected: Rejected) -> DomainError {
    let got = match rejected {
        Rejected::TooOld => "a ticket that is older than a day",
        Rejected::NotVerified | Rejected::KeyUnknown => "another",
    };
    DomainError::invalid("ticket", "the ticket that Admit returned for this holder and lease, or empty", got)
}
