//! Encodes the answers to gateways.

use evenkeel_api::ApiError;
use evenkeel_domain::{
    DomainError, LeaseId, clean,
    verdict::{Basis, Reason, Refusal},
};
use evenkeel_engine::{
    admission::{Admitted, Decision},
    limiter::direct_response::DirectResponse,
};
use evenkeel_proto::v1::{self as pb, AdmitResponse, Header, admit_answer, admit_response::Answer};

/// Maximum length of the explanation of an error on a stream, in bytes.
const ERROR_BYTES_MAX: usize = 256;

/// Encodes a decision. The client and support staff can look up a refusal by `request_id`.
pub(super) fn decision(decision: Decision, request_id: String) -> AdmitResponse {
    let answer = match decision {
        Decision::Admitted(request) => Answer::Admitted(admitted(request)),
        Decision::Refused(refusal) => Answer::Denied(denied(*refusal, request_id)),
    };
    AdmitResponse { answer: Some(answer) }
}

/// Encodes a response that the sidecar itself gives.
pub(super) fn direct_response(response: DirectResponse) -> AdmitResponse {
    let response = pb::DirectResponse {
        status: response.status.into(),
        headers: response.headers.into_iter().map(header).collect(),
        body: response.body,
    };
    AdmitResponse { answer: Some(Answer::DirectResponse(response)) }
}

/// Encodes the answer to an admission on a stream.
pub(super) fn on_stream(lease: LeaseId, answer: Result<AdmitResponse, DomainError>) -> pb::AdmitAnswer {
    let answer = match answer {
        Ok(response) => admit_answer::Answer::Response(response),
        Err(error) => {
            let ApiError { code, message, .. } = ApiError::from(&error);
            let message = clean(&message, ERROR_BYTES_MAX).into_owned();
            admit_answer::Answer::Error(pb::AdmitError { code: code.grpc().unsigned_abs(), message })
        }
    };
    pb::AdmitAnswer { lease: lease.get(), answer: Some(answer) }
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
        unread_tokens: request.unread,
    }
}

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
    let (stands_ms, stands_for) =
        refusal.stands.map_or((0, Vec::new()), |stands| (stands.ms, stands.attributes.to_vec()));
    pb::Denied {
        stands_ms,
        stands_for,
        status: refusal.status.into(),
        reason: reason.into(),
        retry_after_ms: refusal.retry_after_ms,
        headers,
        body: refusal.body.into_bytes(),
    }
}
