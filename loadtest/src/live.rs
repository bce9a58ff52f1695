//! A complete system under continuous traffic, to explore by hand: gateways, sidecars over one Redis, model servers,
//! limits, quotas and different consumers. The load oscillates around the capacity of the model servers, so that spare
//! capacity, full pools and every kind of refusal appear within minutes.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    engine::EngineParams,
    lab::{Lab, LabError, Policy},
    mock::{CONSUMER, OUTPUT_TOKENS, PROMPT_TOKENS},
};

/// Administrator's token of the live system. A fixed token is safe, because the system listens only on the loopback
/// interface.
pub const ADMIN_TOKEN: &str = "live-demonstration-token";
/// Period of the oscillating request rate.
const RATE_PERIOD: Duration = Duration::from_secs(180);
/// Maximum number of requests in flight. Further requests are not sent.
const IN_FLIGHT_MAX: usize = 2000;
const MODELS: [&str; 3] = ["llama-70b", "qwen-32b", "gemma-9b"];

/// Limits and quotas. Each of them refuses requests within minutes.
const LIMITS: &str = "
limits:
- {name: tokens-per-minute, counts: tokens, amount: 60000, per: 1m, algorithm: sliding_window, key: [consumer]}
- {name: requests-per-minute, counts: requests, amount: 240, per: 1m, key: [consumer]}
- {name: at-once, counts: requests, amount: 40, algorithm: concurrency, key: [consumer]}
- {name: big-model, counts: requests, amount: 600, per: 1m, algorithm: token_bucket, burst: 60, key: [model], mode: shadow}
quotas:
- {name: credit, counts: tokens, kind: prepaid, default: 400000}
- {name: budget, counts: cost, kind: budget, per: day, default: 2000000}
prices:
- {model: llama-70b, input: 0.9, output: 2.7}
- {model: '*', input: 0.2, output: 0.6}
";

#[derive(Clone, Debug)]
pub struct LivePlan {
    /// Number of gateways, each with a sidecar.
    pub gateways: usize,
    pub hosts: usize,
    /// Number of consumers; a few send most of the requests.
    pub consumers: usize,
    /// Mean requests per second.
    pub rate_rps: f64,
    /// Seed of the traffic. The same seed gives the same traffic.
    pub seed: u64,
}

impl Default for LivePlan {
    fn default() -> Self {
        Self { gateways: 3, hosts: 8, consumers: 40, rate_rps: 16.0, seed: 1 }
    }
}

/// Starts all processes and waits until they serve.
///
/// # Errors
/// If a process does not start.
pub async fn start(plan: &LivePlan) -> Result<Lab, LabError> {
    let admin = format!("admin: {{tokens: [{{name: live, token: {ADMIN_TOKEN}}}]}}");
    let engine = EngineParams {
        slots: 12,
        base_ms: 12.0,
        per_seq_ms: 0.5,
        per_prefill_token_ms: 0.05,
        prefill_budget: 2048,
        kv_tokens: 100_000,
        ..EngineParams::default()
    };
    Lab::builder()
        .hosts(plan.hosts)
        .envoys(plan.gateways)
        .sidecars(plan.gateways)
        .redis()
        .engine(engine)
        .token_batch(4)
        .pool_yaml("cap: 12")
        .sidecar_yaml(&format!("{admin}\n{LIMITS}"))
        .plugin_config(|config| {
            config["read_body"] = true.into();
            config["include_usage"] = true.into();
        })
        .start()
        .await
}

/// Sends traffic through these gateways until the future is dropped.
pub async fn traffic(plan: &LivePlan, gateways: Vec<String>) {
    let client = Arc::new(Client::builder(TokioExecutor::new()).build(HttpConnector::new()));
    let (mut rng, started, mut in_flight) =
        (SmallRng::seed_from_u64(plan.seed), Instant::now(), JoinSet::new());
    let mut next = started;
    loop {
        let wave =
            (started.elapsed().as_secs_f64() / RATE_PERIOD.as_secs_f64() * std::f64::consts::TAU).sin();
        let rate = plan.rate_rps * (1.0 + 0.6 * wave);
        next += Duration::from_secs_f64(-(1.0 - rng.random::<f64>()).ln() / rate);
        tokio::time::sleep_until(next).await;
        while in_flight.try_join_next().is_some() {}
        if in_flight.len() < IN_FLIGHT_MAX {
            let (request, client) = (chat_request(plan, &mut rng, &gateways), Arc::clone(&client));
            in_flight.spawn(send(client, request));
        }
    }
}

/// Sends a request. Ignores the result, because refusals and errors are expected.
async fn send(client: Arc<Client<HttpConnector, Full<Bytes>>>, request: Request<Full<Bytes>>) {
    if let Ok(response) = client.request(request).await {
        let _ = response.into_body().collect().await;
    }
}

fn chat_request(plan: &LivePlan, rng: &mut SmallRng, gateways: &[String]) -> Request<Full<Bytes>> {
    // The first consumers send the most requests.
    let consumer = (rng.random::<f64>().powi(3) * plan.consumers as f64) as usize;
    let model = MODELS[consumer % MODELS.len()];
    let session = format!("session-{consumer}-{}", rng.random_range(0..5));
    let (prompt, output) = (rng.random_range(50..800_u32), rng.random_range(20..400_u32));
    let gateway = &gateways[rng.random_range(0..gateways.len())];
    let messages = serde_json::json!([{"role": "user", "content": "x".repeat(prompt as usize * 4)}]);
    let body = serde_json::json!({"model": model, "messages": messages, "stream": true}).to_string();
    let mut request = Request::new(Full::from(body));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = format!("{gateway}/v1/chat/completions").parse().unwrap_or_default();
    let headers = [
        ("content-type", "application/json".to_owned()),
        (CONSUMER, format!("team-{consumer:02}")),
        ("x-session-id", session),
        (PROMPT_TOKENS, prompt.to_string()),
        (OUTPUT_TOKENS, output.to_string()),
    ];
    for (name, value) in headers {
        if let Ok(value) = value.parse() {
            request.headers_mut().insert(name, value);
        }
    }
    request
}

/// Returns the base URLs of the gateways' listeners that use the plugin.
#[must_use]
pub fn gateways(lab: &Lab) -> Vec<String> {
    lab.urls(Policy::EvenkeelLeastRequest)
}
