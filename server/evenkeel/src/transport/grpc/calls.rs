//! What gateways ask for, whether in a unary call or on a stream: passes it to [`Admission`] and encodes the result.

use std::{future::Future, sync::Arc, time::Duration};

use evenkeel_domain::{DomainError, HolderId, LeaseId, PoolId};
use evenkeel_engine::{
    admission::{
        Admission,
        keep_alive::{HolderList, KeptAlive},
        settle::EndedRequest,
    },
    balancer::{PickRequest, pool_entry::Candidate},
    limiter::direct_response::AdminCall,
};
use evenkeel_proto::v1::{AdmitRequest, AdmitResponse, FirstToken, KeepAliveResponse, Pool, SettleRequest};
use evenkeel_store::counters::ReservationId;
use evenkeel_telemetry::traces::Current;
use tokio::sync::Semaphore;
use tonic::metadata::MetadataMap;

use super::{answers, request, spans};

/// Divisor of the KeepAlive interval in the response to a list that the shared store did not apply, so that the next
/// list comes sooner.
const RETRY_PART: u32 = 4;
/// Maximum number of settlements, first tokens and cancellations in one message.
pub(super) const PARTS_MAX: usize = 256;
/// Maximum number of first tokens in progress in this sidecar: half of what a lane of the store queues.
const FIRST_TOKENS_IN_PROGRESS_MAX: usize = 8192;

/// The operations of gateways. `metadata` is that of the call, and empty on a stream.
#[derive(Clone)]
pub(super) struct Calls {
    pub(super) admission: Arc<Admission>,
    keep_alive_interval: Duration,
    /// First tokens that may be in progress at once.
    first_tokens: Arc<Semaphore>,
}

impl Calls {
    pub(super) fn new(admission: Arc<Admission>, keep_alive_interval: Duration) -> Self {
        Self {
            admission,
            keep_alive_interval,
            first_tokens: Arc::new(Semaphore::new(FIRST_TOKENS_IN_PROGRESS_MAX)),
        }
    }

    pub(super) async fn admit(
        &self,
        holder: HolderId,
        lease: LeaseId,
        mut request: AdmitRequest,
        metadata: &MetadataMap,
    ) -> Result<AdmitResponse, DomainError> {
        if let Some(call) = request.admin_call.take() {
            let subject = request.subject.unwrap_or_default();
            let consumer = request::name(subject.consumer);
            let call = AdminCall {
                method: &call.method,
                path: &subject.path,
                body: &call.body,
                consumer: &consumer,
                request_id: &format!("{holder}:{lease}"),
            };
            return Ok(answers::direct_response(self.admission.respond(call).await));
        }
        let pool = given(request.pool.take())?;
        let offered = std::mem::take(&mut request.candidates).into_iter();
        let pick = PickRequest {
            route: pool.route.as_str().into(),
            cluster: pool.cluster.as_str().into(),
            holder,
            lease,
            offered: offered
                .map(|c| Candidate { address: c.address, weight: c.weight, cap: c.cap })
                .collect(),
            prompt_tokens: None,
            prefix: request::prefix(&mut request),
        };
        let request_id = request::request_id(std::mem::take(&mut request.request_id));
        let span = spans::admit(&self.admission.tracer, &request, metadata, &pick, &request_id);
        let limits = request::limit_request(request, pool);
        let admit = || self.admission.admit(pick, limits, &request_id);
        let decision = Current::of(span.as_ref()).within(admit).await;
        spans::admitted(span, &decision);
        Ok(answers::decision(decision?, request_id))
    }

    /// Settles a request. The future does not borrow, so that the settlement can outlive its caller.
    pub(super) fn settle(
        &self,
        holder: HolderId,
        lease: LeaseId,
        pool: Pool,
        request: SettleRequest,
        metadata: &MetadataMap,
    ) -> impl Future<Output = Result<bool, DomainError>> + Send + 'static {
        let report = request::usage_report(&request);
        let span = spans::settle(&self.admission.tracer, &request, metadata, &holder, report.outcome);
        let ended = EndedRequest {
            route: pool.route,
            cluster: pool.cluster,
            holder,
            lease,
            ticket: request.ticket,
            model: request::name(request.model),
            late_body: request.request_body.map(request::late_body),
            report,
            status: u16::try_from(request.status).unwrap_or(0),
            first_token_ms: request.first_token_ms,
            total_ms: request.total_ms,
            streamed: request.streamed,
        };
        let admission = Arc::clone(&self.admission);
        async move {
            let settle = || async move { admission.settle(ended).await };
            let released = Current::of(span.as_ref()).within(settle).await;
            spans::settled(span, &released);
            released
        }
    }

    /// Records that answers have begun. Drops the report if too many are in progress: the holder's next list repeats it.
    pub(super) async fn first_tokens(&self, holder: &HolderId, first_tokens: Vec<(PoolId, LeaseId)>) {
        let count = first_tokens.len() as u32;
        let Ok(_permit) = self.first_tokens.try_acquire_many(count) else {
            self.admission.metrics.first_tokens.dropped.inc_by(count.into());
            return;
        };
        let reports = first_tokens.iter().map(|(pool, lease)| async move {
            let result = self.admission.balancer.first_token(pool, holder, *lease).await;
            result.inspect_err(|error| {
                tracing::debug!(%error, %lease, "a first token waits for the holder's next list");
            })
        });
        let results = futures::future::join_all(reports).await;
        let failed = results.iter().filter(|result| result.is_err()).count() as u64;
        self.admission.metrics.first_tokens.ok.inc_by(u64::from(count) - failed);
        self.admission.metrics.first_tokens.error.inc_by(failed);
    }

    /// Gives back what an admission took that nobody waits for. Without a pool, its lease stays until the holder's next
    /// list.
    pub(super) async fn release(&self, holder: HolderId, lease: LeaseId, pool: Option<PoolId>) {
        if let Err(error) = self.admission.cancel(pool.as_ref(), ReservationId { holder, lease }).await {
            tracing::debug!(%error, %lease, "a cancelled lease stays until the holder's next list");
        }
    }

    pub(super) async fn keep_alive(&self, list: HolderList) -> KeepAliveResponse {
        let KeptAlive { repairs, unapplied, unserved } = self.admission.keep_alive(list).await;
        let part = if unapplied == 0 { 1 } else { RETRY_PART };
        let pool = |pool: PoolId| Pool { route: pool.route().into(), cluster: pool.cluster().into() };
        KeepAliveResponse {
            interval_ms: (self.keep_alive_interval / part).as_millis() as u32,
            restored: repairs.restored as u32,
            dropped: repairs.dropped as u32,
            moved: repairs.moved as u32,
            unapplied_pools: unapplied,
            refused_pools: unserved.into_iter().map(pool).collect(),
            wanted_headers: self.admission.limiter.wanted_headers(),
        }
    }

    pub(super) fn keep_alive_interval(&self) -> Duration {
        self.keep_alive_interval
    }
}

/// Decodes first tokens: the pool and the lease of each.
pub(super) fn first_tokens(messages: Vec<FirstToken>) -> Result<Vec<(PoolId, LeaseId)>, DomainError> {
    let decode = |message: FirstToken| {
        let lease = LeaseId::new(message.lease)?;
        let pool = given(message.pool)?;
        Ok((PoolId::new(&pool.route, &pool.cluster)?, lease))
    };
    messages.into_iter().map(decode).collect()
}

pub(super) fn given(pool: Option<Pool>) -> Result<Pool, DomainError> {
    pool.ok_or_else(|| DomainError::invalid("pool", "given", "none"))
}
