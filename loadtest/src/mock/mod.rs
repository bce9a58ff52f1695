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
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::engine::{EngineParams, EngineTotals};
use host::Host;

/// Request header: tokens of the prompt.
pub const PROMPT_TOKENS: &str = "x-mock-prompt-tokens";
/// Request header: tokens to generate.
pub const OUTPUT_TOKENS: &str = "x-mock-output-tokens";
/// Request header: bytes of text in each generated token (4).
pub const TOKEN_BYTES: &str = "x-mock-token-bytes";
/// Request header: whose request it is. Those that name somebody are in the account, [`Fleet::served`].
pub const CONSUMER: &str = "x-mse-consumer";
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
    /// `cut`, `cut:9`: the connection is closed once so many tokens (1) were streamed.
    Cut(u32),
    /// `stall:9`: nothing more comes once so many tokens were streamed.
    Stall(u32),
    /// `hang`: accepted, counted as in flight, never answered.
    Hang,
}

impl Failure {
    fn parse(value: &str) -> Option<Self> {
        let (how, tokens) = value.split_once(':').unwrap_or((value, "1"));
        Some(match how {
            "cut" => Self::Cut(tokens.parse().ok()?),
            "stall" => Self::Stall(tokens.parse().ok()?),
            "503" => Self::Unavailable,
            "404-empty" => Self::NotFoundEmpty,
            "reset" => Self::Reset,
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

/// What one request was served: the truth against which usage that others count can be held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Whose it was.
    pub consumer: String,
    /// Tokens of its prompt.
    pub prompt: u32,
    /// Tokens it would have had in all.
    pub output: u32,
    /// Tokens that went into the response.
    pub streamed: u32,
    /// How it ended; `None` while it is in flight.
    pub end: Option<ServedEnd>,
}

/// How a request ended at its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServedEnd {
    /// The response was handed over to its last byte.
    Complete,
    /// It was not: the client went away, or it was to fail.
    Aborted,
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
    held: watch::Sender<bool>,
    cancel: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Fleet {
    /// Binds every address and serves until dropped.
    pub fn start(config: &FleetConfig) -> std::io::Result<Self> {
        let clock = Clock { epoch: Instant::now(), scale: config.time_scale };
        let (held, watched) = watch::channel(false);
        let mut hosts = Vec::new();
        let mut listeners = Vec::new();
        for address in &config.listen {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            let (engine, held) = (config.engine.clone(), watched.clone());
            hosts.push(Arc::new(Host::new(address, engine, clock, config.token_batch, held)));
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
        Ok(Self { hosts, held, cancel, thread: Some(thread) })
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

    /// What each request that named its consumer was served, by host, in the order they came.
    pub fn served(&self) -> Vec<Served> {
        self.hosts.iter().flat_map(|host| host.served()).collect()
    }

    /// From now on requests wait before the engine, counted as in flight, without an answer.
    pub fn hold(&self) {
        self.held.send_replace(true);
    }

    /// Lets go what is held.
    pub fn release(&self) {
        self.held.send_replace(false);
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

#[cfg(test)]
mod tests {
    use ::http::Request;
    use bytes::Bytes;
    use http_body_util::{BodyExt, Full};
    use hyper_util::{client::legacy::Client, rt::TokioExecutor};

    use super::*;
    use crate::lab::wait;

    const WITHIN: Duration = Duration::from_secs(10);

    fn ask(url: &str, fail: &str, options: &str) -> Request<Full<Bytes>> {
        let body = format!("{{\"stream\":true{options}}}");
        let request = Request::post(format!("{url}/v1/chat/completions"));
        let request = request.header(CONSUMER, "c").header(PROMPT_TOKENS, 3).header(OUTPUT_TOKENS, 5);
        let request = if fail.is_empty() { request } else { request.header(FAIL, fail) };
        request.header(TOKEN_BYTES, 2).body(Full::from(body)).unwrap()
    }

    #[tokio::test]
    async fn the_account_is_what_was_served() {
        let fleet = Fleet::start(&FleetConfig::local(1, EngineParams::default(), 10.0, 1)).unwrap();
        let url = format!("http://{}", fleet.addresses()[0]);
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let served = |streamed, end| Served { consumer: "c".into(), prompt: 3, output: 5, streamed, end };
        let (complete, aborted) = (Some(ServedEnd::Complete), Some(ServedEnd::Aborted));

        fleet.hold();
        let held = tokio::spawn(client.request(ask(&url, "", "")));
        wait::until("the request to be held", WITHIN, async || fleet.in_flight() == [1]).await.unwrap();
        assert_eq!(fleet.served(), [served(0, None)]);
        fleet.release();
        let text = held.await.unwrap().unwrap().into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(text.matches("\"content\":\" t\"").count() == 5 && !text.contains("usage"), "{text}");
        assert_eq!(fleet.served(), [served(5, complete)]);

        let options = r#","stream_options":{"include_usage":true}"#;
        let response = client.request(ask(&url, "", options)).await.unwrap();
        let text = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert_eq!(text.matches("\"usage\":null").count(), 5, "{text}");
        assert!(
            text.contains("\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":5"),
            "{text}"
        );

        client.request(ask(&url, "cut:2", "")).await.unwrap().into_body().collect().await.unwrap_err();
        let mut stalled = client.request(ask(&url, "stall:4", "")).await.unwrap().into_body();
        wait::until("four tokens", WITHIN, async || fleet.served().last() == Some(&served(4, None)))
            .await
            .unwrap();
        assert!(stalled.frame().await.unwrap().is_ok());
        drop((stalled, client));
        let ended = || fleet.served().iter().all(|served| served.end.is_some());
        wait::until("the end", WITHIN, async || ended()).await.unwrap();
        let all = [served(5, complete), served(5, complete), served(2, aborted), served(4, aborted)];
        assert_eq!(fleet.served(), all);
    }
}
