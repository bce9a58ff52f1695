//! `envoy.service.ratelimit.v3.RateLimitService`: what Envoy's rate limit filters call.

use std::{borrow::Cow, sync::Arc};

use envoy_types::pb::{
    envoy::{
        config::core::v3::HeaderValue,
        service::ratelimit::v3::{
            RateLimitResponse,
            rate_limit_response::{Code, DescriptorStatus, RateLimit, rate_limit::Unit as ToldUnit},
        },
        r#type::v3::RateLimitUnit,
    },
    google::protobuf::Duration,
};
use evenkeel_engine::rls::{self, Answer, Descriptor, Judge, Question, Unit};
use evenkeel_telemetry::{
    Metrics,
    traces::{Current, Tracer},
};
use tokio_util::task::TaskTracker;
use tonic::{Status, metadata::MetadataMap};

use super::spans;
use crate::transport::status::to_status;

mod wire;

pub(super) use wire::RlsServer;

pub(super) struct RlsService {
    judge: Arc<Judge>,
    metrics: Arc<Metrics>,
    tracer: Tracer,
    /// Calls under way, which a drain waits for.
    calls: TaskTracker,
}

impl RlsService {
    pub(super) fn new(judge: Arc<Judge>, metrics: Arc<Metrics>, tracer: Tracer, calls: TaskTracker) -> Self {
        Self { judge, metrics, tracer, calls }
    }

    async fn should_rate_limit(
        &self,
        metadata: &MetadataMap,
        asked: &wire::Asked,
    ) -> Result<RateLimitResponse, Status> {
        let _call = self.calls.token();
        let _timer = self.metrics.rls.duration.start_timer();
        let domain = String::from_utf8_lossy(&asked.domain);
        let texts: Vec<Vec<_>> = asked.descriptors.iter().map(texts).collect();
        let descriptors = asked.descriptors.iter().zip(&texts).map(|(asked, texts)| decode(asked, texts));
        let question =
            Question { domain: &domain, hits: asked.hits_addend, descriptors: descriptors.collect() };
        let span = spans::rate_limit(&self.tracer, metadata, &domain);
        let answer = Current::of(span.as_ref()).within(|| self.judge.judge(&question)).await;
        let answer = answer.map_err(|e| to_status(&e));
        spans::rate_limited(span, &answer);
        answer.map(encode)
    }
}

/// Keys and values. What is not UTF-8 in them becomes U+FFFD: values that differ in nothing else count as one.
fn texts(descriptor: &wire::Descriptor) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
    let entries = descriptor.entries.iter();
    entries
        .map(|entry| (String::from_utf8_lossy(&entry.key), String::from_utf8_lossy(&entry.value)))
        .collect()
}

fn decode<'a>(asked: &wire::Descriptor, texts: &'a [(Cow<'_, str>, Cow<'_, str>)]) -> Descriptor<'a> {
    // A limit without a unit that is known here is as none, so that the file's limit holds.
    let limit = asked.limit.and_then(|limit| Some((limit.requests_per_unit, decode_unit(limit.unit)?)));
    Descriptor {
        entries: texts.iter().map(|(key, value)| (&**key, &**value)).collect(),
        limit,
        hits: asked.hits_addend.as_ref().map(|hits| hits.value),
        give_back: asked.is_negative_hits,
    }
}

/// Unit of a limit that comes with a descriptor; there are no weeks among them.
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

fn encode_unit(unit: Unit) -> ToldUnit {
    match unit {
        Unit::Second => ToldUnit::Second,
        Unit::Minute => ToldUnit::Minute,
        Unit::Hour => ToldUnit::Hour,
        Unit::Day => ToldUnit::Day,
        Unit::Week => ToldUnit::Week,
        Unit::Month => ToldUnit::Month,
        Unit::Year => ToldUnit::Year,
    }
}

fn encode(answer: Answer) -> RateLimitResponse {
    let header =
        |(name, value): (&str, String)| HeaderValue { key: name.to_owned(), value, ..HeaderValue::default() };
    RateLimitResponse {
        overall_code: code(answer.over).into(),
        statuses: answer.statuses.into_iter().map(encode_status).collect(),
        response_headers_to_add: answer.headers.into_iter().map(header).collect(),
        ..RateLimitResponse::default()
    }
}

fn encode_status(status: rls::Status) -> DescriptorStatus {
    let duration_until_reset =
        status.limit.is_some().then_some(Duration { seconds: status.reset_s as i64, nanos: 0 });
    let current_limit = status.limit.map(|limit| RateLimit {
        name: limit.name.as_ref().to_owned(),
        requests_per_unit: limit.requests,
        unit: encode_unit(limit.unit).into(),
    });
    DescriptorStatus {
        code: code(status.over).into(),
        current_limit,
        limit_remaining: status.remaining,
        duration_until_reset,
        ..DescriptorStatus::default()
    }
}

fn code(over: bool) -> Code {
    if over { Code::OverLimit } else { Code::Ok }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_told_as_they_are_asked_for() {
        for unit in Unit::ALL {
            let name = encode_unit(unit).as_str_name();
            assert_eq!(name.to_lowercase(), unit.name());
            let asked = RateLimitUnit::from_str_name(name).and_then(|asked| decode_unit(asked.into()));
            assert_eq!(asked, Some(unit).filter(|unit| *unit != Unit::Week));
        }
        assert_eq!((decode_unit(0), decode_unit(99)), (None, None));
    }
}
