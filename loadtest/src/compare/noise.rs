//! Measures single requests on the idle system, along every path.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{IDLE_WITHIN, plan::Plan};
use crate::{
    lab::{Lab, LabError, Policy},
    percentiles::Percentiles,
    replay::{Client, Route},
    report::{Noise, NoisePath},
    workload::{Request, prompt},
};

const REQUESTS: usize = 150;
/// The first requests of each gateway open connections.
pub(super) const WARM_UP_REQUESTS_PER_GATEWAY: usize = 6;

/// Measures sequential requests on an idle system.
pub(super) async fn measure(plan: &Plan, lab: &Lab, time_scale: f64) -> Result<Noise, LabError> {
    let tiny = Request { prompt: 1, output: 1, ..Request::default() };
    let expected = plan.engine.idle_ttft(tiny.prompt);
    let mut paths: Vec<(&str, Vec<String>)> = vec![
        ("direct", lab.hosts().iter().map(|host| format!("http://{host}")).collect()),
        ("envoy", lab.urls(Policy::EnvoyRoundRobin)),
    ];
    if let Some(judged) = Policy::judged(plan.policies.iter().copied()) {
        paths.push(("evenkeel", lab.urls(judged)));
    }
    let mut noise = Noise { expected_ttft_ms: expected.as_secs_f64() * 1e3, paths: BTreeMap::new() };
    for (name, urls) in paths {
        let client = Client::new(Duration::from_secs(10));
        let mut overheads = Vec::new();
        for i in 0..REQUESTS + urls.len() * WARM_UP_REQUESTS_PER_GATEWAY {
            let start = Instant::now();
            let exchange = client
                .send(&urls[i % urls.len()], &tiny, prompt::chat_request(&tiny, i), Route::Gateway)
                .await;
            if let Some(error) = exchange.error {
                return Err(LabError::Response {
                    what: format!("a request to {}: {error}", urls[i % urls.len()]),
                });
            }
            if let Some(first) = exchange.first.filter(|_| i >= urls.len() * WARM_UP_REQUESTS_PER_GATEWAY) {
                let wall = (first - start).as_secs_f64() * 1e3;
                overheads.push(wall - noise.expected_ttft_ms / time_scale);
            }
        }
        let wall = Percentiles::of(overheads);
        let path = NoisePath {
            requests: REQUESTS,
            overhead_wall_ms: wall,
            overhead_ms: wall.divided_by(1.0 / time_scale),
        };
        noise.paths.insert(name.into(), path);
    }
    lab.wait_idle(IDLE_WITHIN).await?;
    Ok(noise)
}
