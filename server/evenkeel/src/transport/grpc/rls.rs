//! `envoy.service.ratelimit.v3.RateLimitService`, which Envoy's rate limit filters call. Decodes their requests, and
//! encodes the decisions of the rate limiter.

use std::{
    borrow::Cow,
    sync::{Arc, Once},
    time::Duration,
};

use evenkeel_engine::rls::{self, Descriptor, Evaluation, RateLimiter, Unit};
use evenkeel_proto::rate_limit_service::{
    HeaderValue, RateLimitDescriptor, RateLimitRequest, RateLimitResponse, RateLimitUnit,
    rate_limit_response::{Code, DescriptorStatus, RateLimit, rate_limit},
    rate_limit_service_server::{RateLimitService, RateLimitServiceServer},
};
use evenkeel_telemetry::{
    Metrics,
    traces::{Current, Tracer},
};
use prost_types::{ListValue, Struct, value::Kind};
use serde_json::{Map, Value};
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, metadata::MetadataMap};
use tracing::warn;

use super::{deadline, spans};
use crate::transport::status::to_status;

pub(super) type RlsServer = RateLimitServiceServer<RlsService>;

/// What the service needs.
pub struct RateLimits {
    pub limiter: Arc<RateLimiter>,
    pub metrics: Arc<Metrics>,
    /// Time that a response may take while the store is slow, before `on_store_failure` decides. `None` for a store that
    /// is never slow.
    pub response_max: Option<Duration>,
}

pub(super) struct RlsService {
    limits: RateLimits,
    short_deadline: Once,
    tracer: Tracer,
    /// Calls in progress; a shutdown waits for them.
    calls: TaskTracker,
}

impl RlsService {
    pub(super) fn new(limits: RateLimits, tracer: Tracer, calls: TaskTracker) -> Self {
        Self { limits, short_deadline: Once::new(), tracer, calls }
    }

    /// Counts a call whose gateway may stop waiting before the sidecar responds. After that, the gateway admits the request
    /// by default, whatever `on_store_failure` is.
    fn check_deadline(&self, metadata: &MetadataMap) {
        let (Some(deadline), Some(needed)) = (deadline::of(metadata), self.limits.response_max) else {
            return;
        };
        if deadline >= needed {
            return;
        }
        self.limits.metrics.rls.short_deadlines.inc();
        self.short_deadline.call_once(|| {
            warn!(
                timeout_ms = deadline.as_millis() as u64,
                needed_ms = needed.as_millis() as u64,
                "the timeout of the gateway's rate limit filter is below twice store.timeout: while Redis is slow, the \
                 gateway admits requests without asking on_store_failure"
            );
        });
    }
}

#[tonic::async_trait]
impl RateLimitService for RlsService {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let _call = self.calls.token();
        let _timer = self.limits.metrics.rls.duration.start_timer();
        let (metadata, _, message) = request.into_parts();
        self.check_deadline(&metadata);
        let domain = String::from_utf8_lossy(&message.domain);
        let entries: Vec<Vec<_>> = message.descriptors.iter().map(decode_entries).collect();
        let descriptors = message.descriptors.iter().zip(&entries);
        let request = rls::RateLimitRequest {
            domain: &domain,
            hits: message.hits_addend,
            descriptors: descriptors.map(|(descriptor, entries)| decode(descriptor, entries)).collect(),
        };
        let span = spans::rate_limit(&self.tracer, &metadata, &domain);
        let evaluation = Current::of(span.as_ref()).within(|| self.limits.limiter.evaluate(&request)).await;
        let evaluation = evaluation.map_err(|error| to_status(&error));
        spans::rate_limited(span, &evaluation);
        evaluation.map(encode).map(Response::new)
    }
}

/// Decodes keys and values. Invalid UTF-8 becomes U+FFFD, so values that differ only in invalid bytes share a counter.
fn decode_entries(descriptor: &RateLimitDescriptor) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
    let text = |bytes| String::from_utf8_lossy(bytes);
    descriptor.entries.iter().map(|entry| (text(&entry.key), text(&entry.value))).collect()
}

fn decode<'a>(
    descriptor: &RateLimitDescriptor,
    entries: &'a [(Cow<'_, str>, Cow<'_, str>)],
) -> Descriptor<'a> {
    // Ignore a limit whose unit is unknown: the limit in the file then applies.
    let limit = descriptor.limit.and_then(|limit| Some((limit.requests_per_unit, decode_unit(limit.unit)?)));
    Descriptor {
        entries: entries.iter().map(|(key, value)| (&**key, &**value)).collect(),
        limit,
        hits: descriptor.hits_addend,
        give_back: descriptor.is_negative_hits,
    }
}

/// Decodes the unit of a descriptor's limit. Envoy has no unit for weeks there.
fn decode_unit(unit: i32) -> Option<Unit> {
    match RateLimitUnit::try_from(unit).ok()? {
        RateLimitUnit::Unknown => None,
        RateLimitUnit::Second => Some(Unit::Second),
        RateLimitUnit::Minute => Some(Unit::Minute),
        RateLimitUnit::Hour => Some(Unit::Hour),
        RateLimitUnit::Day => Some(Unit::Day),
        RateLimitUnit::Month => Some(Unit::Month),
        RateLimitUnit::Year => Some(Unit::Year),
    }
}

fn encode_unit(unit: Unit) -> rate_limit::Unit {
    match unit {
        Unit::Second => rate_limit::Unit::Second,
        Unit::Minute => rate_limit::Unit::Minute,
        Unit::Hour => rate_limit::Unit::Hour,
        Unit::Day => rate_limit::Unit::Day,
        Unit::Week => rate_limit::Unit::Week,
        Unit::Month => rate_limit::Unit::Month,
        Unit::Year => rate_limit::Unit::Year,
    }
}

fn encode(evaluation: Evaluation) -> RateLimitResponse {
    let header = |(name, value): (&str, String)| HeaderValue { key: name.to_owned(), value };
    RateLimitResponse {
        overall_code: code(evaluation.over).into(),
        statuses: evaluation.statuses.into_iter().map(encode_status).collect(),
        response_headers_to_add: evaluation.headers.into_iter().map(header).collect(),
        request_headers_to_add: Vec::new(),
        dynamic_metadata: evaluation.metadata.map(encode_struct),
    }
}

fn encode_status(status: rls::DescriptorStatus) -> DescriptorStatus {
    let reset = status.limit.is_some().then_some(Duration::from_secs(status.reset_s));
    let current_limit = status.limit.map(|limit| RateLimit {
        name: limit.name.as_ref().to_owned(),
        requests_per_unit: limit.requests,
        unit: encode_unit(limit.unit).into(),
    });
    DescriptorStatus {
        code: code(status.over).into(),
        current_limit,
        limit_remaining: status.remaining,
        duration_until_reset: reset.and_then(|reset| reset.try_into().ok()),
    }
}

fn encode_struct(fields: Map<String, Value>) -> Struct {
    Struct { fields: fields.into_iter().map(|(name, value)| (name, encode_value(value))).collect() }
}

fn encode_value(value: Value) -> prost_types::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(flag),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(values) => {
            Kind::ListValue(ListValue { values: values.into_iter().map(encode_value).collect() })
        }
        Value::Object(fields) => Kind::StructValue(encode_struct(fields)),
    };
    prost_types::Value { kind: Some(kind) }
}

fn code(over: bool) -> Code {
    if over { Code::OverLimit } else { Code::Ok }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_have_the_same_names_in_requests_and_responses() {
        for unit in Unit::ALL {
            let name = encode_unit(unit).as_str_name();
            assert_eq!(name.to_lowercase(), unit.name());
            let decoded = RateLimitUnit::from_str_name(name).and_then(|number| decode_unit(number.into()));
            assert_eq!(decoded, Some(unit).filter(|unit| *unit != Unit::Week));
        }
        assert_eq!((decode_unit(0), decode_unit(99)), (None, None));
    }
}
