//! Replays a workload in an open loop: every request is sent at its time in the trace, however slow the responses are.
//! Times to first and last token are measured from that due time rather than from the actual sending, so a stalled
//! system cannot hide its effect on later requests (coordinated omission). The generator also records its own lateness.

mod client;
mod picker;
mod progress;
mod schedule;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

pub use client::{Client, Exchange, Route};
pub use picker::{IdealRule, Pick, Picker, PrefixCaches};
pub use progress::Progress;
pub use schedule::open_loop;
use serde::{Deserialize, Serialize};

use crate::{
    percentiles::Percentiles,
    workload::{Workload, prompt},
};

/// How requests are distributed over the gateways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Spread {
    /// At random, like a load balancer in front of the gateways.
    #[default]
    Random,
    /// To each gateway in turn.
    RoundRobin,
}

#[derive(Clone, Debug)]
pub struct ReplayConfig {
    /// Base URLs of the gateways.
    pub gateways: Vec<String>,
    /// If set, the generator itself chooses one of these hosts by this rule, from a table of all requests in flight, and
    /// sends the host in a header.
    pub ideal: Option<(Vec<SocketAddr>, IdealRule)>,
    /// Trace seconds per wall second.
    pub time_scale: f64,
    pub spread: Spread,
    /// Seed of every random choice.
    pub seed: u64,
    /// Wall time after which a request counts as an error.
    pub timeout: Duration,
}

/// Result of one request. Times are wall times, measured from the request's due time.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Due time, relative to the start of the replay.
    pub due: Duration,
    /// Delay between the due time and the actual sending.
    pub late: Duration,
    /// Time to the first SSE event.
    pub ttft: Option<Duration>,
    /// Time to the end of the response.
    pub e2e: Duration,
    /// HTTP status; `None` without a response.
    pub status: Option<u16>,
    pub host: Option<String>,
    pub error: Option<String>,
}

impl Sample {
    /// Returns whether the response was successful and complete.
    pub fn is_ok(&self) -> bool {
        self.error.is_none()
    }
}

#[derive(Clone, Debug)]
pub struct Replay {
    /// One sample per request, in the order of the trace.
    pub samples: Vec<Sample>,
    /// Wall time from the start of the replay to the last response.
    pub wall: Duration,
    /// Trace seconds per wall second.
    pub time_scale: f64,
}

impl Replay {
    /// Returns the times to first token of successful requests in trace milliseconds.
    pub fn ttft_trace_ms(&self) -> Vec<f64> {
        self.first_tokens_trace_ms().into_iter().flatten().collect()
    }

    /// Returns the time to first token of each request in trace milliseconds; `None` for a failed request.
    pub fn first_tokens_trace_ms(&self) -> Vec<Option<f64>> {
        let ms = |s: &Sample| s.ttft.filter(|_| s.is_ok()).map(|t| t.as_secs_f64() * 1e3 * self.time_scale);
        self.samples.iter().map(ms).collect()
    }

    /// Returns the times to last token of successful requests in trace milliseconds.
    pub fn e2e_trace_ms(&self) -> Vec<f64> {
        self.successful().map(|s| s.e2e.as_secs_f64() * 1e3 * self.time_scale).collect()
    }

    /// Returns the generator's lateness in wall milliseconds.
    pub fn late_wall_ms(&self) -> Percentiles {
        Percentiles::of(self.samples.iter().map(|s| s.late.as_secs_f64() * 1e3))
    }

    /// Returns the number of failed requests.
    pub fn errors(&self) -> usize {
        self.samples.iter().filter(|s| !s.is_ok()).count()
    }

    fn successful(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(|s| s.is_ok())
    }
}

pub async fn run(workload: &Workload, config: &ReplayConfig, progress: Progress) -> Replay {
    let client = Client::new(config.timeout);
    let picker = config.ideal.clone().map(|(hosts, rule)| Arc::new(Picker::new(hosts, rule, config.seed)));
    let gateways =
        schedule::spread(workload.requests.len(), config.gateways.len(), config.spread, config.seed);
    let progress = Arc::new(progress);
    progress.begin(workload.requests.len() as u64);

    let due: Vec<Duration> = workload.requests.iter().map(|r| r.at.div_f64(config.time_scale)).collect();
    let start = Instant::now();
    let samples = open_loop(&due, |index, due_at| {
        let request = workload.requests[index].clone();
        let gateway = config.gateways[gateways[index]].clone();
        let (client, picker, progress) = (client.clone(), picker.clone(), Arc::clone(&progress));
        let due = due[index];
        async move {
            let late = due_at.elapsed();
            // The pick counts as in flight until the response has ended.
            let body = prompt::chat_request(&request, index);
            let pick = picker.as_ref().map(|picker| picker.pick(&request, prompt::text(&body)));
            let route = pick.as_ref().map_or(Route::Gateway, Route::Pick);
            let exchange = client.send(&gateway, &request, body, route).await;
            drop(pick);
            progress.record(exchange.error.is_some());
            exchange.into_sample(due, due_at, late)
        }
    })
    .await;
    progress.finish();
    Replay { samples, wall: start.elapsed(), time_scale: config.time_scale }
}
