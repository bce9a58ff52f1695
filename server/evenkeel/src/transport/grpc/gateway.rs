//! `evenkeel.v1.Gateway`: decodes the calls of gateways, and encodes the decisions of [`Admission`].

use std::{sync::Arc, time::Duration};

use evenkeel_domain::{
    DomainError, HolderId, LeaseId, PoolId,
    verdict::{Basis, Reason, Refusal},
};
use evenkeel_engine::{
    admission::{Admission, Admitted, Decision, keep_alive::KeptAlive, settle::EndedRequest},
    balancer::{PickRequest, pool_entry::Candidate},
    limiter::direct_response::AdminCall,
};
use evenkeel_proto::v1::{
    self as pb, AdmitRequest, AdmitResponse, DirectResponse, Header, KeepAliveRequest, KeepAliveResponse,
    Pool, SettleRequest, SettleResponse, admit_response::Answer, gateway_server::Gateway,
};
use evenkeel_telemetry::traces::Current;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

use super::{keep_alive, request, spans};
use crate::transport::status::to_status;

/// Divisor of the KeepAlive interval in the response to a KeepAlive that the shared store did not apply, so that the
/// next KeepAlive comes sooner.
const RETRY_PART: u32 = 4;

pub(super) struct GatewayService {
    admission: Arc<Admission>,
    keep_alive_interval: Duration,
    /// Calls in progress; a shutdown waits for them.
    calls: TaskTracker,
}

impl GatewayService {
    pub(super) fn new(admission: Arc<Admission>, keep_alive_interval: Duration, calls: TaskTracker) -> Self {
        Self { admission, keep_alive_interval, calls }
    }

    async fn respond(&self, call: &pb::AdminCall, request: &AdmitRequest) -> AdmitResponse {
        let subject = request.subject.clone().unwrap_or_default();
        let request_id = format!("{}:{}", request.holder, request.lease);
        let call = AdminCall {
            method: &call.method,
            path: &subject.path,
            body: &call.body,
            consumer: &subject.consumer,
            request_id: &request_id,
        };
        let response = self.admission.respond(call).await;
        AdmitResponse {
            answer: Some(Answer::DirectResponse(DirectResponse {
                status: response.status.into(),
                headers: response.headers.into_iter().map(header).collect(),
                body: response.body,
            })),
        }
    }
}

#[tonic::async_trait]
impl Gateway for GatewayService {
    async fn admit(&self, request: Request<AdmitRequest>) -> Result<Response<AdmitResponse>, Status> {
        let _call = self.calls.token();
        let (metadata, _, mut request) = request.into_parts();
        if let Some(call) = request.admin_call.take() {
            return Ok(Response::new(self.respond(&call, &request).await));
        }
        let pool = given(request.pool.take())?;
        let (holder, lease) = identity(&request.holder, request.lease)?;
        let offered = std::mem::take(&mut request.candidates).into_iter();
        let pick = PickRequest {
            route: pool.route.as_str().into(),
            cluster: pool.cluster.as_str().into(),
            holder,
            lease,
            offered: offered
                .map(|c| Candidate { address: c.address, weight: c.weight, cap: c.cap })
                .collect(),
        };
        let request_id = request::request_id(std::mem::take(&mut request.request_id));
        let span = spans::admit(&self.admission.tracer, &request, &metadata, &pick, &request_id);
        let limits = request::limit_request(request, pool);
        let admit = || self.admission.admit(pick, limits, &request_id);
        let decision = Current::of(span.as_ref()).within(admit).await;
        spans::admitted(span, &decision);
        let answer = match decision.map_err(|e| to_status(&e))? {
            Decision::Admitted(request) => Answer::Admitted(admitted(request)),
            Decision::Refused(refusal) => Answer::Denied(denied(*refusal, request_id)),
        };
        Ok(Response::new(AdmitResponse { answer: Some(answer) }))
    }

    async fn settle(&self, request: Request<SettleRequest>) -> Result<Response<SettleResponse>, Status> {
        let _call = self.calls.token();
        let (metadata, _, mut request) = request.into_parts();
        let pool = given(request.pool.take())?;
        let (holder, lease) = identity(&request.holder, request.lease)?;
        let report = request::usage_report(&request);
        let span = spans::settle(&self.admission.tracer, &request, &metadata, &holder, report.outcome);
        let ended = EndedRequest {
            route: pool.route,
            cluster: pool.cluster,
            holder,
            lease,
            ticket: request.ticket,
            model: request::name(request.model),
            report,
            status: u16::try_from(request.status).unwrap_or(0),
            first_token_ms: request.first_token_ms,
            total_ms: request.total_ms,
        };
        // A settlement completes even if its gateway stops waiting for the response.
        let admission = Arc::clone(&self.admission);
        let settle = move || async move { admission.settle(ended).await };
        let settled = self.calls.spawn(Current::of(span.as_ref()).within(settle)).await;
        let released = settled.unwrap_or(Err(DomainError::Stopped));
        spans::settled(span, &released);
        Ok(Response::new(SettleResponse { released: released.map_err(|e| to_status(&e))? }))
    }

    async fn keep_alive(
        &self,
        request: Request<KeepAliveRequest>,
    ) -> Result<Response<KeepAliveResponse>, Status> {
        let _call = self.calls.token();
        // Check the whole list before anything changes.
        let list = keep_alive::decode(request.into_inner()).map_err(|e| to_status(&e))?;
        let KeptAlive { repairs, unapplied, unserved } = self.admission.keep_alive(list).await;
        let part = if unapplied == 0 { 1 } else { RETRY_PART };
        let pool = |pool: PoolId| Pool { route: pool.route().into(), cluster: pool.cluster().into() };
        Ok(Response::new(KeepAliveResponse {
            interval_ms: (self.keep_alive_interval / part).as_millis() as u32,
            restored: repairs.restored as u32,
            dropped: repairs.dropped as u32,
            moved: repairs.moved as u32,
            unapplied_pools: unapplied,
            refused_pools: unserved.into_iter().map(pool).collect(),
            wanted_headers: self.admission.limiter.wanted_headers(),
        }))
    }
}

fn given(pool: Option<Pool>) -> Result<Pool, Status> {
    pool.ok_or_else(|| to_status(&DomainError::invalid("pool", "given", "none")))
}

fn identity(holder: &str, lease: u64) -> Result<(HolderId, LeaseId), Status> {
    HolderId::new(holder).and_then(|holder| Ok((holder, LeaseId::new(lease)?))).map_err(|e| to_status(&e))
}

fn header((name, value): (impl Into<String>, impl Into<String>)) -> Header {
    Header { name: name.into(), value: value.into() }
}

fn admitted(request: Admitted) -> pb::Admitted {
    let basis = match request.basis {
        Basis::Shared => pb::Basis::Shared,
        Basis::Local => pb::Basis::Local,
        Basis::Open => pb::Basis::Open,
    };
    pb::Admitted {
        endpoint: request.endpoint.as_deref().unwrap_or_default().to_owned(),
        basis: basis.into(),
        request_headers: Vec::new(),
        response_headers: request.headers.into_iter().map(header).collect(),
        ticket: request.ticket,
        show_ticket: request.show_ticket,
    }
}

/// Encodes a refusal. The client and support staff can look it up by `request_id`.
fn denied(refusal: Refusal, request_id: String) -> pb::Denied {
    let reason = match refusal.reason {
        Reason::PoolFull => pb::Reason::PoolFull,
        Reason::NoEndpoints | Reason::AllDrained => pb::Reason::NoEndpoints,
        Reason::StoreUnavailable => pb::Reason::StoreUnavailable,
        Reason::Limit => pb::Reason::Limit,
        Reason::Quota => pb::Reason::Quota,
    };
    let mut headers: Vec<Header> = refusal.headers.into_iter().map(header).collect();
    if !request_id.is_empty() {
        headers.push(header(("x-request-id", request_id)));
    }
    pb::Denied {
        status: refusal.status.into(),
        reason: reason.into(),
        retry_after_ms: refusal.retry_after_ms,
        headers,
        body: refusal.body.into_bytes(),
    }
}
