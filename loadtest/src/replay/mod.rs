//! Sending a workload, open loop: every request goes out at the time the trace says, however slow the
//! answers are. Times to first and last token count from that time, not from when the generator came round to it, so a
//! stalled system cannot hide what it did to those who would have come meanwhile. The generator's own lateness is recorded.

mod client;
mod picker;
mod progress;
mod schedule;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{figures::Percentiles, workload::Workload};
pub use client::{Answer, Sender};
pub use picker::{Pick, Picker};
pub use progress::Progress;
pub use schedule::open_loop;

/// How requests are spread over the gateways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    /// At random, by a seed: as a load balancer in front of the gateways does.
    #[default]
    Random,
    /// One after the other.
    RoundRobin,
}

impl std::str::FromStr for Spread {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "random" => Ok(Self::Random),
            "round_robin" => Ok(Self::RoundRobin),
            _ => Err("expected random or round_robin".into()),
        }
    }
}

/// How to replay.
#[derive(Clone, Debug)]
pub struct ReplayConfig {
    /// Base URLs of the gateways.
    pub gateways: Vec<String>,
    /// Where given, the generator itself chooses the host by one table of all requests, and names it in a header.
    pub ideal_over: Option<Vec<SocketAddr>>,
    /// Trace seconds per wall second.
    pub time_scale: f64,
    /// How requests are spread over the gateways.
    pub spread: Spread,
    /// Seed of every random choice.
    pub seed: u64,
    /// A request that takes longer, in wall time, counts as an error.
    pub timeout: Duration,
}

/// One request's fate. Times are wall times, from when the request was due.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When it was due, since the start of the replay.
    pub due: Duration,
    /// How late the generator sent it.
    pub late: Duration,
    /// Time to the first SSE event.
    pub ttft: Option<Duration>,
    /// Time to the end of the answer.
    pub e2e: Duration,
    /// HTTP status; `None` when there was none.
    pub status: Option<u16>,
    /// Host that answered.
    pub host: Option<String>,
    /// What went wrong, if anything did.
    pub error: Option<String>,
}

impl Sample {
    /// Whether the answer was complete and good.
    pub fn is_ok(&self) -> bool {
        self.error.is_none()
    }
}

/// What a replay showed.
#[derive(Clone, Debug)]
pub struct Replay {
    /// One for each request, in the order of the trace.
    pub samples: Vec<Sample>,
    /// From the first request's due time to the last answer.
    pub wall: Duration,
    /// Trace seconds per wall second.
    pub time_scale: f64,
}

impl Replay {
    /// Times to first token of good answers, in trace milliseconds.
    pub fn ttft_trace_ms(&self) -> Vec<f64> {
        self.good().filter_map(|s| s.ttft).map(|t| t.as_secs_f64() * 1e3 * self.time_scale).collect()
    }

    /// Times to last token of good answers, in trace milliseconds.
    pub fn e2e_trace_ms(&self) -> Vec<f64> {
        self.good().map(|s| s.e2e.as_secs_f64() * 1e3 * self.time_scale).collect()
    }

    /// The generator's own lateness, in wall milliseconds.
    pub fn late_wall_ms(&self) -> Percentiles {
        Percentiles::of(self.samples.iter().map(|s| s.late.as_secs_f64() * 1e3))
    }

    /// Requests without a good answer.
    pub fn errors(&self) -> usize {
        self.samples.iter().filter(|s| !s.is_ok()).count()
    }

    fn good(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(|s| s.is_ok())
    }
}

/// Replays `workload`.
pub async fn run(workload: &Workload, config: &ReplayConfig, progress: Progress) -> Replay {
    let sender = Sender::new(config.timeout);
    let picker = config.ideal_over.clone().map(|hosts| Arc::new(Picker::new(hosts, config.seed)));
    let gateways =
        schedule::spread(workload.requests.len(), config.gateways.len(), config.spread, config.seed);
    let progress = Arc::new(progress);
    progress.begin(workload.requests.len() as u64);

    let due: Vec<Duration> = workload.requests.iter().map(|r| r.at.div_f64(config.time_scale)).collect();
    let start = Instant::now();
    let samples = open_loop(&due, |index, due_at| {
        let request = workload.requests[index];
        let gateway = config.gateways[gateways[index]].clone();
        let (sender, picker, progress) = (sender.clone(), picker.clone(), Arc::clone(&progress));
        let due = due[index];
        async move {
            let late = due_at.elapsed();
            // Held until the answer ended: that is what "in flight" means to the ideal policy.
            let pick = picker.as_ref().map(Picker::pick);
            let answer = sender.send(&gateway, request, pick.as_ref().map(Pick::host)).await;
            drop(pick);
            progress.one(answer.error.is_some());
            answer.into_sample(due, due_at, late)
        }
    })
    .await;
    progress.end();
    Replay { samples, wall: start.elapsed(), time_scale: config.time_scale }
}
