//! The spans of gateways' calls, and their attributes.

use evenkeel_domain::{
    DomainError, HolderId,
    usage::Outcome,
    verdict::{Basis, Reason},
};
use evenkeel_engine::{
    admission::{Admitted, Decision},
    balancer::PickRequest,
    rls::Evaluation,
};
use evenkeel_proto::v1::{AdmitRequest, SettleRequest};
use evenkeel_telemetry::traces::{Root, Span, TraceHeaders, Tracer};
use tonic::{Status, metadata::MetadataMap};

/// Starts the span of an Admit.
pub(super) fn admit(
    tracer: &Tracer,
    request: &AdmitRequest,
    metadata: &MetadataMap,
    pick: &PickRequest,
    request_id: &str,
) -> Option<Span> {
    if !tracer.is_on() {
        return None;
    }
    let carried = match &*request.traceparent {
        "" => carried_by(metadata),
        parent => TraceHeaders { parent, state: &request.tracestate },
    };
    let root = Root::Lease { holder: pick.holder.as_str(), lease: request.lease, first: true };
    let mut span = tracer.begin("evenkeel.admit", carried, root)?;
    span.set("evenkeel.route", pick.route.clone());
    span.set("evenkeel.cluster", pick.cluster.clone());
    span.set("evenkeel.holder", pick.holder.as_str().to_owned());
    span.set_number("evenkeel.lease", request.lease);
    span.set("gen_ai.request.model", request.model.clone());
    span.set("evenkeel.request_id", request_id.to_owned());
    Some(span)
}

/// Ends the span of an Admit. If the gateway stops waiting for the response, the span is dropped instead and has no
/// result.
pub(super) fn admitted(span: Option<Span>, decision: &Result<Decision, DomainError>) {
    let Some(mut span) = span else { return };
    let result = match decision {
        Ok(Decision::Admitted(Admitted { endpoint, basis, limits, .. })) => {
            span.set_number("evenkeel.limits", *limits);
            if let Some(endpoint) = endpoint {
                span.set("evenkeel.endpoint", endpoint.clone());
            }
            let basis = match basis {
                Basis::Shared => "shared",
                Basis::Local => "local",
                Basis::Open => "open",
            };
            span.set("evenkeel.basis", basis);
            "admitted"
        }
        Ok(Decision::Refused(refusal)) => {
            if !refusal.details.limit.is_empty() {
                span.set("evenkeel.limit", refusal.details.limit.clone());
            }
            if refusal.reason == Reason::AllDrained { "all_drained" } else { refusal.reason.name() }
        }
        Err(error) => {
            fail(&mut span, error);
            "error"
        }
    };
    span.set("evenkeel.result", result);
}

/// Starts the span of a Settle.
pub(super) fn settle(
    tracer: &Tracer,
    request: &SettleRequest,
    metadata: &MetadataMap,
    holder: &HolderId,
    outcome: Outcome,
) -> Option<Span> {
    if !tracer.is_on() {
        return None;
    }
    let carried = match &*request.traceparent {
        "" => carried_by(metadata),
        parent => TraceHeaders { parent, state: "" },
    };
    let root = Root::Lease { holder: holder.as_str(), lease: request.lease, first: false };
    let mut span = tracer.begin("evenkeel.settle", carried, root)?;
    span.set("evenkeel.holder", holder.as_str().to_owned());
    span.set_number("evenkeel.lease", request.lease);
    span.set("evenkeel.outcome", outcome.name());
    if request.status > 0 {
        span.set_number("http.response.status_code", request.status);
    }
    if let Some(tokens) = &request.tokens {
        span.set_number("gen_ai.usage.input_tokens", tokens.input);
        span.set_number("gen_ai.usage.output_tokens", tokens.output);
    }
    span.set("gen_ai.response.model", request.model.clone());
    Some(span)
}

/// Ends the span of a Settle.
pub(super) fn settled(span: Option<Span>, released: &Result<bool, DomainError>) {
    let Some(mut span) = span else { return };
    match released {
        Ok(released) => span.set("evenkeel.released", *released),
        Err(error) => fail(&mut span, error),
    }
}

/// Starts the span of a ShouldRateLimit.
pub(super) fn rate_limit(tracer: &Tracer, metadata: &MetadataMap, domain: &str) -> Option<Span> {
    if !tracer.is_on() {
        return None;
    }
    let mut span = tracer.begin("evenkeel.rate_limit", carried_by(metadata), Root::Random)?;
    span.set("evenkeel.domain", domain.to_owned());
    Some(span)
}

/// Ends the span of a ShouldRateLimit.
pub(super) fn rate_limited(span: Option<Span>, evaluation: &Result<Evaluation, Status>) {
    let Some(mut span) = span else { return };
    match evaluation {
        Ok(evaluation) => span.set("evenkeel.result", if evaluation.over { "over_limit" } else { "ok" }),
        Err(status) => span.fail("rejected", &status.message()),
    }
}

/// Returns the trace context in the call's metadata, where Envoy's own gRPC clients write it.
fn carried_by(metadata: &MetadataMap) -> TraceHeaders<'_> {
    let text = |name| metadata.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    TraceHeaders { parent: text("traceparent"), state: text("tracestate") }
}

fn fail(span: &mut Span, error: &DomainError) {
    let kind = match error {
        DomainError::Store { .. } => "store",
        DomainError::Stopped => "stopped",
        _ => "invalid",
    };
    span.fail(kind, error);
}
