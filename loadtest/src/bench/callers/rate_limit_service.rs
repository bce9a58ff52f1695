//! Callers of Envoy's rate limit service.

use std::{rc::Rc, time::Instant};

use evenkeel_proto::rate_limit_service::{
    RateLimitDescriptor, RateLimitRequest, rate_limit_descriptor::Entry, rate_limit_response::Code,
    rate_limit_service_client::RateLimitServiceClient,
};
use rand::Rng as _;
use tonic::transport::Channel;

use super::{super::recorder::Recorder, COUNTER_KEYS};

pub(crate) const DOMAIN: &str = "bench";
/// Key of the descriptors whose limit no run reaches.
pub(crate) const WITHIN_LIMIT: &str = "within";
/// Key of the descriptors whose limit every request exceeds.
pub(crate) const OVER_LIMIT: &str = "over";
pub(crate) const UNLIMITED: &str = "unlimited";

/// Calls the rate limit service until the recorder stops. Each descriptor has `key` and a random value.
pub(crate) async fn call(channel: Channel, key: &'static str, recorder: Rc<Recorder>) {
    let mut client = RateLimitServiceClient::new(channel);
    let expected = if key == OVER_LIMIT { Code::OverLimit } else { Code::Ok };
    while !recorder.is_stopped() {
        let value = rand::rng().random_range(0..COUNTER_KEYS).to_string();
        let entries = vec![Entry { key: key.into(), value: value.into() }];
        let descriptor = RateLimitDescriptor { entries, ..RateLimitDescriptor::default() };
        let request =
            RateLimitRequest { domain: DOMAIN.into(), descriptors: vec![descriptor], hits_addend: 1 };
        let start = Instant::now();
        let response = client.should_rate_limit(request).await;
        let is_ok = response.is_ok_and(|response| response.get_ref().overall_code() == expected);
        recorder.record(start, true, is_ok);
    }
}
