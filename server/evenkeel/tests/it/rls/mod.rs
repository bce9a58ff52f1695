//! Tests Evenkeel as Envoy's rate limit service.

use std::fs;

use evenkeel_proto::rate_limit_service::{
    RateLimitDescriptor, RateLimitRequest, RateLimitResponse, rate_limit_descriptor::Entry,
    rate_limit_response::Code, rate_limit_service_client::RateLimitServiceClient,
};
use tonic::transport::Channel;

use crate::support::{redis::Redis, sidecar::Sidecar};

mod counting;
mod errors;
mod files;
mod model;
mod modes;
mod wire;

/// The units are long, so that no window ends during a test.
const LIMITS: &str = "
domain: d
descriptors:
- {key: two, rate_limit: {name: two, unit: year, requests_per_unit: 2}}
- {key: ten, rate_limit: {unit: year, requests_per_unit: 10}}
- {key: ten, value: one, rate_limit: {unit: month, requests_per_unit: 1}}
- {key: none, rate_limit: {unit: second, requests_per_unit: 0}}
- {key: none, value: allowed}
- {key: free, rate_limit: {unlimited: true}}
- {key: shadow, shadow_mode: true, rate_limit: {unit: year, requests_per_unit: 1}}
- {key: small, quota_mode: true, rate_limit: {unit: year, requests_per_unit: 1}}
- {key: large, quota_mode: true, rate_limit: {unit: year, requests_per_unit: 2}}
- {key: instead, rate_limit: {unit: year, requests_per_unit: 5, replaces: [{name: two}]}}
- key: path
  value: /v1/*
  share_threshold: true
  value_to_metric: true
  descriptors:
  - {key: user, detailed_metric: true, rate_limit: {name: per-user, unit: year, requests_per_unit: 2}}
";

struct Rls {
    sidecar: Sidecar,
    client: RateLimitServiceClient<Channel>,
    dir: tempfile::TempDir,
    _redis: Option<Redis>,
}

impl Rls {
    /// Starts a sidecar. `more` continues the section `rate_limit_service`.
    async fn start(limits: &str, more: &str, redis: Option<Redis>) -> Self {
        let store = redis.as_ref().map_or(String::new(), |redis| redis.store(", timeout: 2s"));
        Self { _redis: redis, ..Self::start_on(limits, more, &store).await }
    }

    async fn start_on(limits: &str, more: &str, store: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("limits.yaml"), limits).unwrap();
        let config = dir.path().display();
        let yaml = format!("{store}rate_limit_service: {{config: '{config}'{more}}}\n");
        let sidecar = Sidecar::start(&yaml).await;
        let client = client(&sidecar).await;
        Self { sidecar, client, dir, _redis: None }
    }

    fn write(&self, text: &str) {
        fs::write(self.dir.path().join("limits.yaml"), text).unwrap();
    }

    async fn ask(&self, hits: u32, descriptors: &[RateLimitDescriptor]) -> RateLimitResponse {
        self.ask_in("d", hits, descriptors).await.unwrap()
    }

    async fn ask_in(
        &self,
        domain: &str,
        hits_addend: u32,
        descriptors: &[RateLimitDescriptor],
    ) -> Result<RateLimitResponse, tonic::Status> {
        let descriptors = descriptors.to_vec();
        let request = RateLimitRequest { domain: domain.into(), descriptors, hits_addend };
        self.client.clone().should_rate_limit(request).await.map(tonic::Response::into_inner)
    }

    /// Sends a request. Returns the overall code, and the code and remainder of each descriptor.
    async fn codes(&self, hits: u32, descriptors: &[RateLimitDescriptor]) -> (Code, Vec<(Code, u32)>) {
        let response = self.ask(hits, descriptors).await;
        let statuses = response.statuses.iter().map(|status| (status.code(), status.limit_remaining));
        (response.overall_code(), statuses.collect())
    }

    /// Returns the metric lines that start with `start` and whose value is not 0.
    async fn metrics(&self, start: &str) -> Vec<String> {
        let (_, text) = self.sidecar.get("/metrics").await;
        text.lines()
            .filter(|line| line.starts_with(start) && !line.ends_with(" 0"))
            .map(str::to_owned)
            .collect()
    }
}

async fn client(sidecar: &Sidecar) -> RateLimitServiceClient<Channel> {
    RateLimitServiceClient::new(sidecar.channel().await)
}

fn by(entries: &[(&str, &str)]) -> RateLimitDescriptor {
    let entry = |(key, value): &(&str, &str)| Entry { key: (*key).into(), value: (*value).into() };
    RateLimitDescriptor { entries: entries.iter().map(entry).collect(), ..RateLimitDescriptor::default() }
}

fn hits(value: u64, descriptor: RateLimitDescriptor) -> RateLimitDescriptor {
    RateLimitDescriptor { hits_addend: Some(value), ..descriptor }
}

/// Makes the descriptor subtract `value` from its counter.
fn back(value: u64, descriptor: RateLimitDescriptor) -> RateLimitDescriptor {
    RateLimitDescriptor { is_negative_hits: true, ..hits(value, descriptor) }
}

/// Starts the service with the embedded store and with Redis, with the same limits.
async fn stores(more: &str) -> [Rls; 2] {
    [Rls::start(LIMITS, more, None).await, Rls::start(LIMITS, more, Some(Redis::start())).await]
}

const OK: Code = Code::Ok;
const OVER: Code = Code::OverLimit;
