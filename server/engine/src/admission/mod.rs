//! The way of a request: its limits and its pool admit it, both settle it when it ends, and the ledger records it.
//! [`settle`] handles the end of a request, and [`keep_alive`] a gateway's list of leases.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use evenkeel_domain::{
    DomainError,
    activity::{AdmitResult, Refused},
    verdict::{Basis, Reason, Refusal, RefusalDetails, Verdict},
};
use evenkeel_store::counters::ReservationId;
use evenkeel_telemetry::{
    Metrics,
    traces::{self, Tracer},
};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    activity::Recorder,
    balancer::{Balancer, PickRequest, Picked, pool_entry::PoolEntry},
    ledger::Ledger,
    limiter::{
        Header, LimitRequest, Limiter, Reservation, Reserved, Selection,
        direct_response::{AdminCall, DirectResponse, Rights, respond},
        quotas::Quotas,
        ticket_keys::TicketKeys,
    },
};

pub mod keep_alive;
mod latency;
mod restores;
pub mod settle;
mod unverified;

pub use restores::Restores;
pub use unverified::Unverified;

/// The components that a request passes through.
pub struct Admission {
    /// Pools and their tables.
    pub balancer: Arc<Balancer>,
    pub limiter: Arc<Limiter>,
    pub ledger: Arc<Ledger>,
    /// Serves administrators' calls that come through a gateway.
    pub quotas: Arc<Quotas>,
    /// The keys of tickets.
    pub tickets: Arc<TicketKeys>,
    /// Settlements that wait for the keys.
    pub unverified: Arc<Unverified>,
    pub restores: Restores,
    /// Records events, for operators.
    pub recorder: Arc<Recorder>,
    pub tracer: Tracer,
    pub metrics: Arc<Metrics>,
}

/// The decision on a request.
pub enum Decision {
    /// The request may proceed.
    Admitted(Admitted),
    /// The gateway sends this response to the client.
    Refused(Box<Refusal>),
}

pub struct Admitted {
    /// The chosen endpoint. `None` if the gateway chooses.
    pub endpoint: Option<Arc<str>>,
    /// How the endpoint was chosen.
    pub basis: Basis,
    /// The ticket, which the gateway sends back with the settlement. Often empty.
    pub ticket: Vec<u8>,
    /// Whether the gateway must include the ticket in its KeepAlives, because the request is under a concurrency limit.
    pub show_ticket: bool,
    /// Headers for the client.
    pub headers: Vec<Header>,
    /// Number of limits and quotas that apply to the request.
    pub limits: usize,
    /// Prompt tokens that the endpoint counts as unread. If above 0, the gateway reports the first token.
    pub unread: u64,
}

impl Admission {
    /// Decides on a request. If limits apply, the decision completes even if the caller stops waiting, so that the
    /// sidecar knows the reservations when the request settles. `request_id` is the gateway's id of the request and may
    /// be empty.
    ///
    /// # Errors
    /// If the request is invalid, or an embedded store fails. A refusal is a decision, not an error.
    pub async fn admit(
        self: &Arc<Self>,
        pick: PickRequest,
        request: LimitRequest,
        request_id: &str,
    ) -> Result<Decision, DomainError> {
        let started = Instant::now();
        let found = self.balancer.directory.resolve(&pick.route, &pick.cluster);
        let pool = found.inspect_err(|_| self.metrics.admits.invalid.inc())?;
        let holder = pick.holder.clone();
        let decision = match self.limiter.select(&request) {
            Err(refusal) => Ok(Decision::Refused(refusal)),
            Ok(selection) if selection.is_empty() => self.decide(&pool, pick, request, selection).await,
            Ok(selection) => {
                let (this, pool) = (Arc::clone(self), Arc::clone(&pool));
                let decide = move || async move { this.decide(&pool, pick, request, selection).await };
                let decided = tokio::spawn(traces::current().within(decide));
                decided.await.unwrap_or(Err(DomainError::Stopped))
            }
        };
        if matches!(&decision, Ok(Decision::Admitted(admitted)) if admitted.basis != Basis::Shared) {
            self.recorder.gateways.without_store(&holder);
        }
        self.record(&decision, &pool, request_id);
        self.metrics.admit_duration.observe(started.elapsed().as_secs_f64());
        decision
    }

    /// Asks the limits and the pool concurrently, because each costs a round trip. If one refuses, rolls back the
    /// other.
    async fn decide(
        &self,
        pool: &PoolEntry,
        mut pick: PickRequest,
        request: LimitRequest,
        selection: Selection,
    ) -> Result<Decision, DomainError> {
        pick.prompt_tokens = selection.prompt_tokens(&request.body);
        // Most pools need no copies of these names.
        if pool.prefixes.is_some() {
            pick.prefix.prompt_bytes = request.body.prompt_bytes;
            pick.prefix.model = request.attributes.model.clone();
            pick.prefix.consumer = request.attributes.consumer.clone();
            pick.prefix.path = request.attributes.path.clone();
            pick.prefix.session = request.session.clone();
        }
        let id = ReservationId { holder: pick.holder.clone(), lease: pick.lease };
        let (reserved, picked) =
            tokio::join!(self.limiter.reserve(request, selection, &id), self.balancer.pick(pool, pick));
        let reserved = match reserved {
            Ok(Reserved::Held(reservation)) => Ok(reservation),
            Ok(Reserved::Refused(refusal)) => Err(Ok(Decision::Refused(refusal))),
            Err(error) => Err(Err(DomainError::store("reserving")(error))),
        };
        let mut reservation = match reserved {
            Ok(reservation) => reservation,
            Err(decision) => {
                if let Ok(Picked { verdict: Verdict::Admitted { endpoint: Some(_), .. }, .. }) = picked {
                    self.balancer.roll_back(pool, &id.holder, id.lease).await;
                }
                return decision;
            }
        };
        let picked = match picked {
            Ok(picked) => picked,
            Err(error) => {
                self.limiter.roll_back(&id, reservation).await;
                return Err(error);
            }
        };
        let (endpoint, basis, unread) = match &picked.verdict {
            Verdict::Admitted { endpoint, basis, unread } => (endpoint.clone(), *basis, *unread),
            Verdict::Refused(reason) => {
                return Ok(Decision::Refused(self.refuse(pool, *reason, &id, reservation).await));
            }
        };
        reservation.ticket.endpoint = endpoint.as_deref().unwrap_or_default().to_owned();
        let ticket = self.limiter.issue(std::mem::take(&mut reservation.ticket), &id);
        if !self.limiter.open(&id, &ticket, &reservation) {
            debug!(lease = %id.lease, "the request ended before it was admitted");
            self.balancer.roll_back(pool, &id.holder, id.lease).await;
            reservation.ticket = TicketKeys::open_own(&ticket).unwrap_or_default();
            return Ok(Decision::Refused(self.refuse(pool, Reason::NoEndpoints, &id, reservation).await));
        }
        self.balancer.placed(pool, &id.holder, id.lease, picked);
        let Reservation { show_ticket, headers, limits, .. } = reservation;
        Ok(Decision::Admitted(Admitted { endpoint, basis, ticket, show_ticket, headers, limits, unread }))
    }

    async fn refuse(
        &self,
        pool: &PoolEntry,
        reason: Reason,
        id: &ReservationId,
        mut reservation: Reservation,
    ) -> Box<Refusal> {
        let retry_after_s = if reason == Reason::PoolFull { pool.rule.full_retry_after.as_secs() } else { 1 };
        let consumer = std::mem::take(&mut reservation.ticket.consumer);
        let model = std::mem::take(&mut reservation.ticket.model);
        self.limiter.roll_back(id, reservation).await;
        Box::new(Refusal::of_pool(reason, retry_after_s, consumer, model))
    }

    /// Counts the decision. Records a refusal so that operators can look it up.
    fn record(&self, decision: &Result<Decision, DomainError>, pool: &PoolEntry, request_id: &str) {
        let admits = &self.metrics.admits;
        let result: AdmitResult = match decision {
            Ok(Decision::Admitted(admitted)) => admitted.basis.into(),
            Ok(Decision::Refused(refusal)) => refusal.reason.into(),
            Err(DomainError::Store { .. }) => AdmitResult::StoreUnavailable,
            Err(_) => return admits.invalid.inc(),
        };
        match result {
            AdmitResult::Shared => &admits.shared,
            AdmitResult::Local => &admits.local,
            AdmitResult::Open => &admits.open,
            AdmitResult::PoolFull => &admits.pool_full,
            AdmitResult::NoEndpoints => &admits.no_endpoints,
            AdmitResult::Limit => &admits.limit,
            AdmitResult::Quota => &admits.quota,
            AdmitResult::StoreUnavailable => &admits.store_unavailable,
        }
        .inc();
        pool.counts.count(result);
        self.recorder.count(result);
        if result.is_admitted() || !self.recorder.wants_refusal() {
            return;
        }
        let (status, retry_after_ms, details) = match decision {
            Ok(Decision::Refused(refusal)) => {
                (refusal.status, refusal.retry_after_ms, refusal.details.clone())
            }
            _ => {
                let failed = Refusal::of_pool(Reason::StoreUnavailable, 0, String::new(), String::new());
                (failed.status, failed.retry_after_ms, failed.details)
            }
        };
        let RefusalDetails { consumer, model, limit, key, amount, used, cost, why } = details;
        self.recorder.refused(Refused {
            id: 0,
            request_id: request_id.to_owned(),
            at_ms: 0,
            route: pool.pool.id.route().to_owned(),
            cluster: pool.pool.id.cluster().to_owned(),
            reason: result,
            why,
            status,
            retry_after_ms,
            consumer,
            model,
            limit,
            key,
            amount,
            used,
            cost,
            sidecar: String::new(),
        });
    }

    /// Answers an administrator's call about quotas that came through a gateway.
    pub async fn respond(&self, call: AdminCall<'_>) -> DirectResponse {
        self.metrics.admits.direct_response.inc();
        let rules = self.limiter.rules();
        let rights = Rights { admins: &rules.quota_admins, may_change: rules.quota_changes_through_gateway };
        respond(&self.quotas, rights, call).await
    }

    /// Once per interval until `shutdown`: drops expired state, announces this sidecar to the other sidecars, restores the
    /// keys of tickets, and sends settlements that wait for the store.
    pub async fn housekeeping(
        self: Arc<Self>,
        instance: String,
        interval: Duration,
        shutdown: CancellationToken,
    ) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut losses = self.balancer.store.losses();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = shutdown.cancelled() => return,
            }
            self.limiter.purge();
            let store = &self.balancer.store;
            match store.announce(&instance, interval * 3).await {
                Ok(alive) => self.metrics.sidecars.set(alive as i64),
                Err(error) => debug!(%error, "the sidecar cannot count the other sidecars"),
            }
            if !store.is_up() || store.losses() != losses {
                losses = store.losses();
                self.tickets.store_lost();
            }
            if store.is_up() {
                match self.tickets.refresh(true).await {
                    Ok(()) => {
                        self.tickets.interval_passed();
                        self.settle_unverified(None).await;
                    }
                    Err(error) => debug!(%error, "the sidecar cannot read the keys of tickets"),
                }
            }
            store.settle_waiting().await;
        }
    }
}
