//! What spans of gateways' calls tell.

use evenkeel_domain::{DomainError, HolderId};
use evenkeel_engine::{
    admission::Decision,
    balancer::{Answer, Question},
    limiter::Refusal,
    rls::Answer as Verdict,
};
use evenkeel_proto::v1::{AdmitRequest, Outcome, SettleRequest};
use evenkeel_telemetry::traces::{Carried, Root, Span, Tracer};
use tonic::{Status, metadata::MetadataMap};

/// Begins the span of an Admit.
pub(super) fn admit(
    tracer: &Tracer,
    request: &AdmitRequest,
    metadata: &MetadataMap,
    question: &Question,
    request_id: &str,
) -> Option<Span> {
    if !tracer.is_on() {
        return None;
    }
    let carried = match &*request.traceparent {
        "" => carried_by(metadata),
        parent => Carried { parent, state: &request.tracestate },
    };
    let root = Root::Lease { holder: question.holder.as_str(), lease: request.lease, first: true };
    let mut span = tracer.begin("evenkeel.admit", carried, root)?;
    span.set("evenkeel.route", question.route.clone());
    span.set("evenkeel.cluster", question.cluster.clone());
    span.set("evenkeel.holder", question.holder.as_str().to_owned());
    span.set_number("evenkeel.lease", request.lease);
    span.set("gen_ai.request.model", request.model.clone());
    span.set("evenkeel.request_id", request_id.to_owned());
    Some(span)
}

/// Ends the span of an Admit. One that is only dropped has no result: its gateway did not wait for the answer.
pub(super) fn admitted(span: Option<Span>, decision: &Result<Decision, DomainError>) {
    let Some(mut span) = span else { return };
    if let Ok(Decision::Placed { pass, .. }) = decision {
        span.set_number("evenkeel.limits", pass.limits);
    }
    let result = match decision {
        Ok(Decision::Placed { answer, .. } | Decision::Denied { answer, .. }) => match answer {
            Answer::Admitted { endpoint, shared } => {
                span.set("evenkeel.endpoint", endpoint.clone());
                span.set("evenkeel.basis", if *shared { "shared" } else { "local" });
                "admitted"
            }
            Answer::Open => {
                span.set("evenkeel.basis", "open");
                "admitted"
            }
            Answer::PoolFull { .. } => "pool_full",
            Answer::NoEndpoints => "no_endpoints",
            Answer::AllDrained => "all_drained",
            Answer::StoreUnavailable => "store_unavailable",
        },
        Ok(Decision::Refused(Refusal { name, quota, .. })) => {
            span.set("evenkeel.limit", name.clone());
            if *quota { "quota" } else { "limit" }
        }
        Ok(Decision::LimitsClosed(_)) => "store_unavailable",
        Err(error) => {
            fail(&mut span, error);
            "error"
        }
    };
    span.set("evenkeel.result", result);
}

/// Begins the span of a Settle.
pub(super) fn settle(
    tracer: &Tracer,
    request: &SettleRequest,
    metadata: &MetadataMap,
    holder: &HolderId,
) -> Option<Span> {
    if !tracer.is_on() {
        return None;
    }
    let carried = match &*request.traceparent {
        "" => carried_by(metadata),
        parent => Carried { parent, state: "" },
    };
    let root = Root::Lease { holder: holder.as_str(), lease: request.lease, first: false };
    let mut span = tracer.begin("evenkeel.settle", carried, root)?;
    span.set("evenkeel.holder", holder.as_str().to_owned());
    span.set_number("evenkeel.lease", request.lease);
    span.set("evenkeel.outcome", outcome(request.outcome()));
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

/// Begins the span of a ShouldRateLimit.
pub(super) fn rate_limit(tracer: &Tracer, metadata: &MetadataMap, domain: &str) -> Option<Span> {
    if !tracer.is_on() {
        return None;
    }
    let mut span = tracer.begin("evenkeel.rate_limit", carried_by(metadata), Root::Own)?;
    span.set("evenkeel.domain", domain.to_owned());
    Some(span)
}

/// Ends the span of a ShouldRateLimit.
pub(super) fn rate_limited(span: Option<Span>, answer: &Result<Verdict, Status>) {
    let Some(mut span) = span else { return };
    match answer {
        Ok(answer) => span.set("evenkeel.result", if answer.over { "over_limit" } else { "ok" }),
        Err(status) => span.fail("rejected", &status.message()),
    }
}

/// What the call itself brings: Envoy's own gRPC clients write it there.
fn carried_by(metadata: &MetadataMap) -> Carried<'_> {
    let text = |name| metadata.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    Carried { parent: text("traceparent"), state: text("tracestate") }
}

fn fail(span: &mut Span, error: &DomainError) {
    let kind = match error {
        DomainError::Store { .. } => "store",
        DomainError::Stopped => "stopped",
        _ => "invalid",
    };
    span.fail(kind, error);
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Unspecified => "unknown",
        Outcome::Success => "success",
        Outcome::ClientError => "client_error",
        Outcome::ServerError => "server_error",
        Outcome::UpstreamReset => "upstream_reset",
        Outcome::ClientAbort => "client_abort",
        Outcome::Timeout => "timeout",
        Outcome::NotSent => "not_sent",
    }
}
