//! Mock model servers: several hosts in one process. Each host has its own port and its own
//! [`Engine`](crate::engine::Engine), which determines when each token is ready.
//!
//! A fleet of hosts runs in its own thread, so that its timers do not queue behind the load generator's timers.

mod body;
mod clock;
mod host;
mod http;
mod metrics;

use std::{net::SocketAddr, sync::Arc};

use clock::Clock;
use host::Host;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::engine::{EngineParams, EngineTotals};

/// Request header with the number of tokens in the prompt.
pub const PROMPT_TOKENS: &str = "x-mock-prompt-tokens";
/// Request header with the number of tokens to generate.
pub const OUTPUT_TOKENS: &str = "x-mock-output-tokens";
/// Request header with the number of bytes of text per generated token (default: 4).
pub const TOKEN_BYTES: &str = "x-mock-token-bytes";
/// Request header with the consumer. [`Fleet::served`] lists the requests that have this header.
pub const CONSUMER: &str = "x-mse-consumer";
/// Request header that makes the request fail; see [`Failure`].
pub const FAIL: &str = "x-mock-fail";
/// Response header with the `ip:port` of the host that responded.
pub const HOST: &str = "x-mock-host";

/// A failure that a request specifies in its `x-mock-fail` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// `503`: an immediate error response with a JSON body.
    Unavailable,
    /// `404-empty`: a 404 without a body.
    NotFoundEmpty,
    /// `reset`: the host closes the connection without a response.
    Reset,
    /// `cut:9`: the host closes the connection after streaming 9 tokens. `cut`: after 1 token.
    Cut(u32),
    /// `stall:9`: the stream stalls after 9 tokens.
    Stall(u32),
    /// `hang`: the host accepts the request, counts it as in flight and never responds.
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

#[derive(Clone, Debug)]
pub struct FleetConfig {
    /// Addresses to listen on, one per host; port 0 picks a free port.
    pub listen: Vec<SocketAddr>,
    pub engine: EngineParams,
    /// Virtual seconds per wall second.
    pub time_scale: f64,
    /// Tokens per SSE event. The first token always has its own event.
    pub token_batch: u32,
}

impl FleetConfig {
    /// Returns a configuration of `hosts` hosts on free ports of 127.0.0.1.
    pub fn local(hosts: usize, engine: EngineParams, time_scale: f64, token_batch: u32) -> Self {
        Self { listen: vec![SocketAddr::from(([127, 0, 0, 1], 0)); hosts], engine, time_scale, token_batch }
    }
}

/// Request counts of one host, as `/stats` reports them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostStats {
    /// Accepted requests that have not ended: running, waiting or hanging.
    pub in_flight: u64,
    /// Sequences that have a slot.
    pub running: u64,
    /// Sequences in the queue.
    pub waiting: u64,
    /// Requests accepted since the start.
    pub started: u64,
    /// Started requests whose response was complete.
    pub finished: u64,
    /// Started requests that the client abandoned or that failed as requested.
    pub aborted: u64,
}

/// Record of one request. Tests compare it with the usage that other components count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    pub consumer: String,
    /// Tokens in the prompt.
    pub prompt: u32,
    /// Tokens in the complete response.
    pub output: u32,
    /// Tokens that the host has sent.
    pub streamed: u32,
    /// `None` while the request is in flight.
    pub end: Option<ServedEnd>,
}

/// How a request ended, as seen by its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServedEnd {
    /// The host sent the complete response.
    Complete,
    /// The client disconnected, or the request failed as requested.
    Aborted,
}

/// The running hosts. Dropping the fleet closes them and all their connections.
#[derive(Debug)]
pub struct Fleet {
    hosts: Vec<Arc<Host>>,
    clock: Clock,
    held: watch::Sender<bool>,
    cancel: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Fleet {
    /// Binds every address and serves until the fleet is dropped.
    pub fn start(config: &FleetConfig) -> std::io::Result<Self> {
        let clock = Clock::new(config.time_scale);
        let (held, watched) = watch::channel(false);
        let mut hosts = Vec::new();
        let mut listeners = Vec::new();
        for address in &config.listen {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            let (engine, held) = (config.engine.clone(), watched.clone());
            hosts.push(Arc::new(Host::new(address, engine, clock.clone(), config.token_batch, held)));
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
        Ok(Self { hosts, clock, held, cancel, thread: Some(thread) })
    }

    /// Returns the hosts' addresses in the order of the configuration.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.hosts.iter().map(|host| host.address).collect()
    }

    pub fn stats(&self) -> Vec<HostStats> {
        self.hosts.iter().map(|host| host.stats()).collect()
    }

    pub fn in_flight(&self) -> Vec<u64> {
        self.hosts.iter().map(|host| host.stats().in_flight).collect()
    }

    /// Returns a record of every request that named its consumer, ordered by host and arrival.
    pub fn served(&self) -> Vec<Served> {
        self.hosts.iter().flat_map(|host| host.served()).collect()
    }

    /// Holds requests back from the engine. They count as in flight, but receive no response.
    pub fn hold(&self) {
        self.held.send_replace(true);
    }

    /// Passes the requests that were held back to the engine.
    pub fn release(&self) {
        self.held.send_replace(false);
    }

    /// Changes the number of virtual seconds per wall second. The hosts must be idle, because a host does not notice a
    /// change during a step.
    pub fn set_time_scale(&self, scale: f64) {
        self.clock.set_scale(scale);
    }

    /// Returns how late the hosts sent first tokens since the last call, compared with the engine's time: one delay for
    /// each response, in wall milliseconds.
    pub fn take_late_wall_ms(&self) -> Vec<f64> {
        self.hosts.iter().flat_map(|host| host.take_late_wall_ms()).collect()
    }

    /// Empties the hosts' prefix caches.
    pub fn clear_caches(&self) {
        self.hosts.iter().for_each(|host| host.clear_cache());
    }

    /// Returns for each host how many tokens of a prompt with these blocks
    /// ([`prompt::block_hashes`](crate::workload::prompt::block_hashes)) its prefix cache will have once it has read the
    /// prompts that it has.
    pub fn expected_cached(&self, blocks: &[u64]) -> Vec<u64> {
        self.hosts.iter().map(|host| host.expected_cached(blocks)).collect()
    }

    /// Returns the prompt tokens that each host has not read yet.
    pub fn unread(&self) -> Vec<u64> {
        self.hosts.iter().map(|host| host.unread()).collect()
    }

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

    use std::time::Duration;

    use super::*;
    use crate::{
        wait,
        workload::{self, prompt},
    };

    const WITHIN: Duration = Duration::from_secs(10);

    fn chat_request(url: &str, fail: &str, options: &str) -> Request<Full<Bytes>> {
        let body = format!("{{\"stream\":true{options}}}");
        let request = Request::post(format!("{url}/v1/chat/completions"));
        let request = request.header(CONSUMER, "c").header(PROMPT_TOKENS, 3).header(OUTPUT_TOKENS, 5);
        let request = if fail.is_empty() { request } else { request.header(FAIL, fail) };
        request.header(TOKEN_BYTES, 2).body(Full::from(body)).unwrap()
    }

    #[tokio::test]
    async fn served_requests_are_recorded() {
        let fleet = Fleet::start(&FleetConfig::local(1, EngineParams::default(), 10.0, 1)).unwrap();
        let url = format!("http://{}", fleet.addresses()[0]);
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let served = |streamed, end| Served { consumer: "c".into(), prompt: 3, output: 5, streamed, end };
        let (complete, aborted) = (Some(ServedEnd::Complete), Some(ServedEnd::Aborted));

        fleet.hold();
        let held = tokio::spawn(client.request(chat_request(&url, "", "")));
        wait::until("the request to be held", WITHIN, async || fleet.in_flight() == [1]).await.unwrap();
        assert_eq!(fleet.served(), [served(0, None)]);
        fleet.release();
        let text = held.await.unwrap().unwrap().into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(text.matches("\"content\":\" t\"").count() == 5 && !text.contains("usage"), "{text}");
        assert_eq!(fleet.served(), [served(5, complete)]);
        let late = fleet.take_late_wall_ms();
        assert!(late.len() == 1 && late[0] >= 0.0 && fleet.take_late_wall_ms().is_empty(), "{late:?}");

        let options = r#","stream_options":{"include_usage":true}"#;
        let response = client.request(chat_request(&url, "", options)).await.unwrap();
        let text = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert_eq!(text.matches("\"usage\":null").count(), 5, "{text}");
        assert!(
            text.contains("\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":5"),
            "{text}"
        );

        client
            .request(chat_request(&url, "cut:2", ""))
            .await
            .unwrap()
            .into_body()
            .collect()
            .await
            .unwrap_err();
        let mut stalled = client.request(chat_request(&url, "stall:4", "")).await.unwrap().into_body();
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

    #[tokio::test]
    async fn a_prompt_that_begins_like_an_earlier_one_is_partly_cached() {
        let engine = EngineParams { cache_tokens: 100_000, ..EngineParams::default() };
        let fleet = Fleet::start(&FleetConfig::local(1, engine, 100.0, 8)).unwrap();
        let url = format!("http://{}/v1/chat/completions", fleet.addresses()[0]);
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let ask = async |prompt: u32, blocks: &[u64], stream: bool| {
            let request =
                workload::Request { prompt, output: 2, blocks: blocks.into(), ..Default::default() };
            let body = String::from_utf8(prompt::chat_request(&request, 0).to_vec()).unwrap();
            let body = if stream { body } else { body.replacen(r#""stream":true,"#, "", 1) };
            let request = Request::post(&url).header(PROMPT_TOKENS, prompt).header(OUTPUT_TOKENS, 2);
            let response = client.request(request.body(Full::from(body)).unwrap()).await.unwrap();
            let text = response.into_body().collect().await.unwrap().to_bytes();
            let text = String::from_utf8_lossy(&text).into_owned();
            let cached = text
                .split_once("\"cached_tokens\":")
                .map(|(_, rest)| rest.split_once('}').unwrap().0.to_owned());
            cached.unwrap().parse::<u64>().unwrap()
        };
        assert_eq!(ask(1200, &[1, 2], true).await, 0);
        assert_eq!(ask(1500, &[1, 3], true).await, 512);
        assert_eq!(ask(1200, &[1, 2], false).await, 1024);
        let request = workload::Request { prompt: 1500, blocks: [1, 3].into(), ..Default::default() };
        let body = prompt::chat_request(&request, 9);
        assert_eq!(fleet.expected_cached(&prompt::block_hashes("mock", prompt::text(&body))), [1024]);
        assert_eq!((fleet.unread(), fleet.totals()[0].cached_tokens), (vec![0], 512 + 1024));
        fleet.clear_caches();
        assert_eq!(ask(1200, &[1, 2], true).await, 0);
    }
}
