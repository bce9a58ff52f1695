//! A request's way through the sidecar: held against limits and given an endpoint at the same time, settled in both
//! when it has ended, written into the ledger.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use evenkeel_domain::{
    DomainError, HolderId, LeaseId,
    activity::{Fate, Refused},
    usage::Outcome as UsageOutcome,
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
    activity::{Recorder, RefusalFacts},
    balancer::{Answer, Balancer, Question, directory::PoolEntry},
    ledger::{Ledger, UsageRecord},
    limiter::{
        Ask, Ending, Limiter, Outcome, Pass, Refusal, Selection, Told,
        own::{OwnAnswer, OwnCall, answer_own},
        quotas::Quotas,
    },
};

/// What requests go through.
pub struct Admission {
    /// Chooses and counts.
    pub balancer: Arc<Balancer>,
    /// Limits.
    pub limiter: Arc<Limiter>,
    /// Keeps account of usage.
    pub ledger: Arc<Ledger>,
    /// For requests about quotas that come through a gateway.
    pub quotas: Quotas,
    /// For what becomes of requests, and those who ask why.
    pub recorder: Arc<Recorder>,
    /// For spans of requests.
    pub tracer: Tracer,
    /// For what becomes of requests.
    pub metrics: Arc<Metrics>,
}

/// The answer to a request.
pub enum Decision {
    /// It may go on.
    Placed {
        /// Where: admitted, or open.
        answer: Answer,
        /// What the limits say.
        pass: Pass,
    },
    /// It is denied for want of an endpoint.
    Denied {
        /// Why.
        answer: Answer,
        /// For who asks later.
        facts: RefusalFacts,
    },
    /// A limit or quota refuses it.
    Refused(Refusal),
    /// The store is unavailable, and a limit is closed then.
    LimitsClosed(RefusalFacts),
}

/// A request that has ended.
#[derive(Clone, Debug)]
pub struct End {
    /// As when it was admitted.
    pub route: String,
    /// As when it was admitted.
    pub cluster: String,
    /// As when it was admitted.
    pub holder: HolderId,
    /// As when it was admitted.
    pub lease: LeaseId,
    /// What it was given when it was admitted; empty where its gateway never got it.
    pub ticket: Vec<u8>,
    /// The model its response named.
    pub model: String,
    /// How it ended, for the ledger.
    pub outcome: UsageOutcome,
    /// What is told of its usage.
    pub told: Told,
    /// HTTP status; 0 when none.
    pub status: u16,
    /// Time to the first byte of the response body; 0 when there was none.
    pub first_token_ms: u64,
    /// Time to its end.
    pub total_ms: u64,
}

impl Admission {
    /// Decides on a request. Where limits apply it goes on even if nobody waits for the answer any more, so that what is
    /// reserved is known here when the request is settled. `request_id` is the gateway's; empty for none.
    ///
    /// # Errors
    /// Where the request itself is wrong, or an embedded store fails. Being denied is an answer.
    pub async fn admit(
        self: &Arc<Self>,
        question: Question,
        ask: Ask,
        request_id: &str,
    ) -> Result<Decision, DomainError> {
        let started = Instant::now();
        let found = self.balancer.directory.resolve(&question.route, &question.cluster);
        let pool = found.inspect_err(|_| self.metrics.admits.invalid.inc())?;
        let decision = match self.limiter.select(&ask) {
            Err(refusal) => Ok(Decision::Refused(refusal)),
            Ok(selection) if selection.is_empty() => self.decide(&pool, question, ask, selection).await,
            Ok(selection) => {
                let (this, pool) = (Arc::clone(self), Arc::clone(&pool));
                let decide = move || async move { this.decide(&pool, question, ask, selection).await };
                let decided = tokio::spawn(traces::current().within(decide));
                decided.await.unwrap_or(Err(DomainError::Stopped))
            }
        };
        if let Some(fate) = self.count(&decision, &pool)
            && !fate.is_admitted()
            && self.recorder.wants_refusal()
        {
            let id = &pool.pool.id;
            self.recorder.refused(refused(request_id, id.route(), id.cluster(), fate, &decision));
        }
        self.metrics.admit_duration.observe(started.elapsed().as_secs_f64());
        decision
    }

    async fn decide(
        &self,
        pool: &PoolEntry,
        question: Question,
        ask: Ask,
        selection: Selection,
    ) -> Result<Decision, DomainError> {
        let id = ReservationId { holder: question.holder.clone(), lease: question.lease };
        let (route, cluster) = (Arc::clone(&question.route), Arc::clone(&question.cluster));
        let (limits, placed) =
            tokio::join!(self.limiter.reserve(ask, selection, &id), self.balancer.place(pool, question));
        let refused = match limits.map_err(DomainError::store("reserving")) {
            Ok(Outcome::Pass(pass)) => match placed {
                Ok(answer @ (Answer::Admitted { .. } | Answer::Open)) => {
                    if !self.limiter.note_open(&id, &pass) {
                        debug!(lease = %id.lease, "ended before it was admitted");
                        let facts = pass.facts();
                        self.limiter.cancel(&id, pass).await;
                        drop(self.balancer.settle(&route, &cluster, &id.holder, id.lease).await);
                        return Ok(Decision::Denied { answer: Answer::NoEndpoints, facts });
                    }
                    return Ok(Decision::Placed { answer, pass });
                }
                Ok(answer) => {
                    let facts = pass.facts();
                    self.limiter.cancel(&id, pass).await;
                    return Ok(Decision::Denied { answer, facts });
                }
                Err(error) => {
                    self.limiter.cancel(&id, pass).await;
                    return Err(error);
                }
            },
            Ok(Outcome::Refused(refusal)) => Ok(Decision::Refused(refusal)),
            Ok(Outcome::Closed(facts)) => Ok(Decision::LimitsClosed(facts)),
            Err(error) => Err(error),
        };
        if let Ok(Answer::Admitted { .. }) = placed
            && let Err(error) = self.balancer.settle(&route, &cluster, &id.holder, id.lease).await
        {
            debug!(%error, lease = %id.lease, "lease of a refused request not given back: the next KeepAlive does");
        }
        refused
    }

    fn count(&self, decision: &Result<Decision, DomainError>, pool: &PoolEntry) -> Option<Fate> {
        let admits = &self.metrics.admits;
        let Some(fate) = fate(decision) else {
            admits.invalid.inc();
            return None;
        };
        match fate {
            Fate::Shared => &admits.shared,
            Fate::Local => &admits.local,
            Fate::Open => &admits.open,
            Fate::PoolFull => &admits.pool_full,
            Fate::NoEndpoints => &admits.no_endpoints,
            Fate::Limit => &admits.limit,
            Fate::Quota => &admits.quota,
            Fate::StoreUnavailable => &admits.store_unavailable,
        }
        .inc();
        pool.counts.count(fate);
        self.recorder.count(fate);
        Some(fate)
    }

    /// Settles a request: its lease given back, its reservation replaced by its charge, its usage recorded. True where
    /// the lease was given back by this call.
    ///
    /// # Errors
    /// Where the pool cannot be, or an embedded store fails.
    pub async fn settle(&self, end: End) -> Result<bool, DomainError> {
        let id = ReservationId { holder: end.holder.clone(), lease: end.lease };
        let (released, settled) = tokio::join!(
            self.balancer.settle(&end.route, &end.cluster, &end.holder, end.lease),
            self.limiter.settle(&id, &end.ticket, &end.model, &end.told),
        );
        let settles = &self.metrics.limit_settles;
        let settled = match settled {
            Ok(settled) => settled,
            Err(error) => {
                settles.error.inc();
                debug!(%error, lease = %id.lease, "reservation not settled");
                None
            }
        };
        let Some(settled) = settled else { return released };
        match settled.first {
            Some(true) => settles.charged.inc(),
            Some(false) => settles.repeated.inc(),
            None => {}
        }
        let is_first = settled.first.unwrap_or(settled.was_open || matches!(released, Ok(true)));
        if is_first && end.told.ending != Ending::NotSent {
            let charged = &self.metrics.charged;
            let tokens = settled.charge.tokens;
            let basis = usize::from(settled.charge.estimated);
            charged.input[basis].inc_by(tokens.input);
            charged.output[basis].inc_by(tokens.output);
            charged.cost.inc_by(settled.cost as f64 / 1e6);
            self.ledger.record(&UsageRecord {
                consumer: &settled.ticket.consumer,
                model: &settled.ticket.model,
                route: &end.route,
                session: &settled.ticket.session,
                tokens,
                estimated: settled.charge.estimated,
                cost: settled.cost,
                status: end.status,
                outcome: end.outcome,
                first_token_ms: end.first_token_ms,
                total_ms: end.total_ms,
            });
        }
        released
    }

    /// Answers a request about quotas that came through a gateway.
    pub async fn own(&self, call: OwnCall<'_>) -> OwnAnswer {
        self.metrics.admits.own.inc();
        let admins = self.limiter.quota_admins();
        answer_own(&self.quotas, &admins, call).await
    }

    /// Tidies up, and tells the other sidecars of this one, until told to stop.
    pub async fn keep_house(
        self: Arc<Self>,
        instance: String,
        interval: Duration,
        shutdown: CancellationToken,
    ) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = shutdown.cancelled() => return,
            }
            self.limiter.purge();
            let store = &self.balancer.store;
            if let Err(error) = store.announce(&instance, interval * 3).await {
                debug!(%error, "other sidecars not counted");
            }
            store.settle_waiting().await;
        }
    }
}

/// What became of a request; `None` where it was wrong itself.
fn fate(decision: &Result<Decision, DomainError>) -> Option<Fate> {
    Some(match decision {
        Ok(Decision::Placed { answer, .. } | Decision::Denied { answer, .. }) => match answer {
            Answer::Admitted { shared: true, .. } => Fate::Shared,
            Answer::Admitted { shared: false, .. } => Fate::Local,
            Answer::Open => Fate::Open,
            Answer::PoolFull { .. } => Fate::PoolFull,
            Answer::NoEndpoints | Answer::AllDrained => Fate::NoEndpoints,
            Answer::StoreUnavailable => Fate::StoreUnavailable,
        },
        Ok(Decision::Refused(Refusal { quota, .. })) => {
            if *quota {
                Fate::Quota
            } else {
                Fate::Limit
            }
        }
        Ok(Decision::LimitsClosed(_)) | Err(DomainError::Store { .. }) => Fate::StoreUnavailable,
        Err(_) => return None,
    })
}

/// What is kept of a refusal.
fn refused(
    request_id: &str,
    route: &str,
    cluster: &str,
    reason: Fate,
    decision: &Result<Decision, DomainError>,
) -> Refused {
    let (facts, status, retry_after_ms) = match decision {
        Ok(Decision::Refused(refusal)) => ((*refusal.facts).clone(), refusal.status, refusal.retry_after_ms),
        Ok(Decision::Denied { answer: Answer::PoolFull { retry_after_s }, facts }) => {
            (facts.clone(), 429, retry_after_s * 1000)
        }
        Ok(Decision::Denied { facts, .. } | Decision::LimitsClosed(facts)) => (facts.clone(), 503, 1000),
        _ => (RefusalFacts::default(), 503, 0),
    };
    let RefusalFacts { consumer, model, limit, key, amount, used, cost, why } = facts;
    let why = match reason {
        Fate::PoolFull => {
            "every endpoint of the pool had as many requests in flight as its cap allows".to_owned()
        }
        Fate::NoEndpoints => "the pool had no endpoints that take requests".to_owned(),
        Fate::StoreUnavailable => {
            "the store was unavailable, and what is configured for that is to refuse".to_owned()
        }
        _ => why,
    };
    Refused {
        id: 0,
        request_id: request_id.to_owned(),
        at_ms: 0,
        route: route.to_owned(),
        cluster: cluster.to_owned(),
        reason,
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
    }
}
