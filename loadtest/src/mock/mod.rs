//! Model servers that only pretend: N hosts in one process, each on its own port, each with an
//! [`Engine`](crate::engine::Engine) that decides when which token is ready.
//!
//! A fleet runs in a thread of its own, so that its timers do not queue behind the load generator's.

mod body;
mod host;
mod http;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::engine::{EngineParams, EngineTotals};
use host::Host;

/// Request header: tokens of the prompt.
pub const PROMPT_TOKENS: &str = "x-mock-prompt-tokens";
/// Request header: tokens to generate.
pub const OUTPUT_TOKENS: &str = "x-mock-output-tokens";
/// Request header: how to fail; see [`Failure`].
pub const FAIL: &str = "x-mock-fail";
/// Response header: `ip:port` of the host that answered.
pub const HOST: &str = "x-mock-host";

/// How a request can be made to fail, by its `x-mock-fail` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// `503`: an error answer with a JSON body, at once.
    Unavailable,
    /// `404-empty`: a 404 without body.
    NotFoundEmpty,
    /// `reset`: the connection is closed before any answer.
    Reset,
    /// `cut`: the connection is closed after the first event of a stream.
    Cut,
    /// `hang`: accepted, counted as in flight, never answered.
    Hang,
}

impl Failure {
    fn parse(value: &str) -> Option<Self> {
        Some(match value {
            "503" => Self::Unavailable,
            "404-empty" => Self::NotFoundEmpty,
            "reset" => Self::Reset,
            "cut" => Self::Cut,
            "hang" => Self::Hang,
            _ => return None,
        })
    }
}

/// What a fleet is made of.
#[derive(Clone, Debug)]
pub struct FleetConfig {
    /// Addresses to listen on, one a host; port 0 picks a free one.
    pub listen: Vec<SocketAddr>,
    /// Engine of every host.
    pub engine: EngineParams,
    /// Virtual seconds per wall second.
    pub time_scale: f64,
    /// Tokens in one SSE event (the first token always has an event of its own).
    pub token_batch: u32,
}

impl FleetConfig {
    /// `hosts` hosts on free ports of 127.0.0.1.
    pub fn local(hosts: usize, engine: EngineParams, time_scale: f64, token_batch: u32) -> Self {
        Self { listen: vec![SocketAddr::from(([127, 0, 0, 1], 0)); hosts], engine, time_scale, token_batch }
    }
}

/// Counts of one host, as its `/stats` answers them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostStats {
    /// Requests accepted and not yet ended: running, queued or hanging.
    pub in_flight: u64,
    /// Sequences in a slot.
    pub running: u64,
    /// Sequences in the queue.
    pub waiting: u64,
    /// Requests accepted since the start.
    pub started: u64,
    /// Of those, answered to the end.
    pub finished: u64,
    /// Of those, given up by the client or failed on purpose.
    pub aborted: u64,
}

/// Virtual time: wall time since the start, times the scale.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    epoch: Instant,
    scale: f64,
}

impl Clock {
    fn now(&self) -> Duration {
        self.epoch.elapsed().mul_f64(self.scale)
    }

    fn wall(&self, at: Duration) -> Instant {
        self.epoch + at.div_f64(self.scale)
    }
}

/// Running hosts. Dropping it closes them and every connection to them.
#[derive(Debug)]
pub struct Fleet {
    hosts: Vec<Arc<Host>>,
    cancel: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Fleet {
    /// Binds every address and serves until dropped.
    pub fn start(config: &FleetConfig) -> std::io::Result<Self> {
        let clock = Clock { epoch: Instant::now(), scale: config.time_scale };
        let mut hosts = Vec::new();
        let mut listeners = Vec::new();
        for address in &config.listen {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            hosts.push(Arc::new(Host::new(address, config.engine.clone(), clock, config.token_batch)));
            listeners.push(listener);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let cancel = CancellationToken::new();
        let served: Vec<_> = hosts.iter().cloned().zip(listeners).collect();
        let stop = cancel.clone();
        let thread = std::thread::Builder::new().name("mock-hosts".into()).spawn(move || {
            runtime.block_on(async move {
                for (host, listener) in served {
                    tokio::spawn(host::drive(Arc::clone(&host)));
                    tokio::spawn(http::serve(host, listener));
                }
                stop.cancelled().await;
            });
            // Dropping the runtime drops every connection.
        })?;
        Ok(Self { hosts, cancel, thread: Some(thread) })
    }

    /// Where the hosts listen, in the order of the configuration.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.hosts.iter().map(|host| host.address).collect()
    }

    /// Counts of each host.
    pub fn stats(&self) -> Vec<HostStats> {
        self.hosts.iter().map(|host| host.stats()).collect()
    }

    /// Requests in flight on each host.
    pub fn in_flight(&self) -> Vec<u64> {
        self.hosts.iter().map(|host| host.stats().in_flight).collect()
    }

    /// Integrals of each host's engine.
    pub fn totals(&self) -> Vec<EngineTotals> {
        self.hosts.iter().map(|host| host.totals()).collect()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.cancel.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
