//! The end of a request: releases its lease, replaces its reservation with the charge, and records its usage.

use evenkeel_domain::{DomainError, HolderId, LeaseId, PoolId, usage::Outcome};
use evenkeel_store::counters::ReservationId;
use tracing::debug;

use super::Admission;
use crate::{
    ledger::UsageRecord,
    limiter::{LateBody, OpenedTicket, Settled, UsageReport, ticket_keys::Rejected},
};

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
}

impl Admission {
    /// Settles a request. Returns whether this call released the lease. Settling is idempotent.
    ///
    /// # Errors
    /// If the ticket does not verify: nothing has changed then. If the pool's name is invalid, or an embedded store fails.
    pub async fn settle(&self, ended: EndedRequest) -> Result<bool, DomainError> {
        let id = ReservationId { holder: ended.holder.clone(), lease: ended.lease };
        match self.limiter.open_ticket(&id, &ended.ticket) {
            Ok(ticket) => {
                let (released, settled) =
                    tokio::join!(self.release(&ended), self.settle_limits(&id, ticket, &ended));
                if let Some(settled) = settled {
                    self.charge(&ended, &settled, matches!(released, Ok(true)));
                }
                released
            }
            Err(Rejected::KeyUnknown) => {
                let released = self.release(&ended).await;
                if self.unverified.push(ended, matches!(released, Ok(true))) {
                    self.metrics.settlements_lost.inc();
                }
                released
            }
            Err(rejected) => Err(rejection(rejected)),
        }
    }

    /// Records that the answer to a request has begun. Idempotent.
    ///
    /// # Errors
    /// If the pool's name is invalid, or the store fails. The holder's next list repeats the report.
    pub async fn first_token(
        &self,
        pool: &PoolId,
        holder: &HolderId,
        lease: LeaseId,
    ) -> Result<(), DomainError> {
        self.balancer.first_token(pool, holder, lease).await
    }

    /// Settles the requests whose tickets could not be verified before.
    pub async fn settle_unverified(&self) {
        for (ended, was_released) in self.unverified.take() {
            let id = ReservationId { holder: ended.holder.clone(), lease: ended.lease };
            // The limiter counts a ticket that does not verify now either.
            let Ok(ticket) = self.limiter.open_ticket(&id, &ended.ticket) else { continue };
            if let Some(settled) = self.settle_limits(&id, ticket, &ended).await {
                self.charge(&ended, &settled, was_released);
            }
        }
    }

    async fn release(&self, ended: &EndedRequest) -> Result<bool, DomainError> {
        self.balancer.settle(&ended.route, &ended.cluster, &ended.holder, ended.lease).await
    }

    async fn settle_limits(
        &self,
        id: &ReservationId,
        ticket: Option<OpenedTicket>,
        ended: &EndedRequest,
    ) -> Option<Settled> {
        let EndedRequest { late_body, model, report, .. } = ended;
        let settled = self.limiter.settle(id, ticket?, late_body.as_ref(), model, report).await;
        settled
            .inspect_err(|error| {
                self.metrics.limit_settles.error.inc();
                debug!(%error, lease = %id.lease, "the store did not settle the reservation");
            })
            .ok()
    }

    /// Gives back what an admission took whose request was not sent: its lease, if the pool is known, and its reservation,
    /// if this sidecar has made it.
    ///
    /// # Errors
    /// If an embedded store fails.
    pub async fn cancel(&self, pool: Option<&PoolId>, id: ReservationId) -> Result<(), DomainError> {
        let report = UsageReport::not_sent();
        let release = async {
            match pool {
                Some(pool) => {
                    self.balancer.settle(pool.route(), pool.cluster(), &id.holder, id.lease).await.map(drop)
                }
                None => Ok(()),
            }
        };
        let give_back = async {
            match self.limiter.open_ticket(&id, &[]) {
                Ok(Some(ticket)) => self.limiter.settle(&id, ticket, None, "", &report).await.map(drop),
                _ => Ok(()),
            }
        };
        let (released, given_back) = tokio::join!(release, give_back);
        if let Err(error) = given_back {
            debug!(%error, lease = %id.lease, "the store did not give a reservation back");
        }
        released
    }

    /// Counts a settled request and records it in the ledger, once per request.
    fn charge(&self, ended: &EndedRequest, settled: &Settled, released: bool) {
        let settles = &self.metrics.limit_settles;
        match settled.first {
            Some(true) => settles.charged.inc(),
            Some(false) => settles.repeated.inc(),
            None => {}
        }
        let is_first = settled.first.unwrap_or(settled.was_open || released);
        if !is_first || ended.report.outcome == Outcome::NotSent {
            return;
        }
        let charge = &settled.charge;
        let charged = &self.metrics.charged;
        let basis = usize::from(charge.estimated);
        charged.input[basis].inc_by(charge.tokens.input);
        charged.output[basis].inc_by(charge.tokens.output);
        charged.cost.inc_by(charge.cost as f64 / 1e6);
        self.ledger.record(&UsageRecord {
            consumer: &settled.ticket.consumer,
            model: &settled.ticket.model,
            route: &ended.route,
            session: &settled.ticket.session,
            tokens: charge.tokens,
            estimated: charge.estimated,
            cost: charge.cost,
            status: ended.status,
            outcome: ended.report.outcome,
            first_token_ms: ended.first_token_ms,
            total_ms: ended.total_ms,
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
