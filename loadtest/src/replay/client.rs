//! Sends one request, reads its response to the end and times the first event.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request as HttpRequest, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};

use super::{Pick, Sample};
use crate::{
    lab::OVERRIDE_HOST_HEADER,
    mock::{CONSUMER, HOST, OUTPUT_TOKENS, PROMPT_TOKENS},
    workload::{Request, prompt},
};

/// Sends requests over persistent connections. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Client {
    client: legacy::Client<HttpConnector, Full<Bytes>>,
    timeout: Duration,
}

/// Who chooses the host of a request.
#[derive(Clone, Copy, Debug)]
pub enum Route<'a> {
    Gateway,
    /// The client, with this host.
    Host(SocketAddr),
    /// The client, with this pick, which learns of the first token.
    Pick(&'a Pick),
}

/// Result of one request.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Arrival of the first SSE event.
    pub first: Option<Instant>,
    /// End of the response.
    pub end: Instant,
    pub status: Option<StatusCode>,
    pub host: Option<String>,
    pub error: Option<String>,
}

impl Client {
    pub fn new(timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .build(connector);
        Self { client, timeout }
    }

    /// Sends one request with this body through `gateway`, and reads the response to its end.
    pub async fn send(&self, gateway: &str, request: &Request, body: Bytes, route: Route<'_>) -> Exchange {
        let mut exchange =
            Exchange { first: None, end: Instant::now(), status: None, host: None, error: None };
        let attempt = self.attempt(gateway, request, body, route, &mut exchange);
        match tokio::time::timeout(self.timeout, attempt).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => exchange.error = Some(error),
            Err(_) => exchange.error = Some("timeout".into()),
        }
        exchange.end = Instant::now();
        exchange
    }

    async fn attempt(
        &self,
        gateway: &str,
        request: &Request,
        body: Bytes,
        route: Route<'_>,
        exchange: &mut Exchange,
    ) -> Result<(), String> {
        let mut builder = HttpRequest::post(format!("{gateway}/v1/chat/completions"))
            .header("content-type", "application/json")
            .header(PROMPT_TOKENS, request.prompt)
            .header(OUTPUT_TOKENS, request.output);
        if let Some(consumer) = prompt::consumer_name(request.consumer) {
            builder = builder.header(CONSUMER, consumer);
        }
        let host = match route {
            Route::Gateway => None,
            Route::Host(host) => Some(host),
            Route::Pick(pick) => Some(pick.host()),
        };
        if let Some(host) = host {
            builder = builder.header(OVERRIDE_HOST_HEADER, host.to_string());
        }
        let request = builder.body(Full::new(body)).map_err(|e| e.to_string())?;
        let response = self.client.request(request).await.map_err(describe)?;
        exchange.status = Some(response.status());
        exchange.host = response.headers().get(HOST).and_then(|h| h.to_str().ok()).map(str::to_owned);
        let is_success = response.status().is_success();
        let mut body = response.into_body();
        let mut is_complete = false;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(describe)?;
            let Some(data) = frame.data_ref() else { continue };
            if exchange.first.is_none() && is_success {
                exchange.first = Some(Instant::now());
                if let Route::Pick(pick) = route {
                    pick.first_token();
                }
            }
            is_complete = data.ends_with(b"[DONE]\n\n") || (is_complete && data.is_empty());
        }
        match exchange.status {
            Some(status) if !is_success => Err(format!("status {}", status.as_u16())),
            _ if !is_complete => Err("the stream ended before [DONE]".into()),
            _ => Ok(()),
        }
    }
}

impl Exchange {
    pub(super) fn into_sample(self, due: Duration, due_at: Instant, late: Duration) -> Sample {
        Sample {
            due,
            late,
            ttft: self.first.map(|first| first.saturating_duration_since(due_at)),
            e2e: self.end.saturating_duration_since(due_at),
            status: self.status.map(|s| s.as_u16()),
            host: self.host,
            error: self.error,
        }
    }
}

/// Formats an error and its sources on one line.
fn describe(error: impl std::error::Error + Send + Sync + 'static) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::EngineParams,
        mock::{Fleet, FleetConfig},
        percentiles::Percentiles,
        replay::{Progress, ReplayConfig, Spread, run},
        workload::Workload,
    };

    fn workload(n: u64) -> Workload {
        let requests = (0..n)
            .map(|i| Request {
                at: Duration::from_millis(20 * i),
                prompt: 100,
                output: 20,
                ..Request::default()
            })
            .collect();
        Workload { source: "test".into(), requests, duration: Duration::from_millis(20 * n) }
    }

    fn config(fleet: &Fleet) -> ReplayConfig {
        ReplayConfig {
            gateways: fleet.addresses().iter().map(|a| format!("http://{a}")).collect(),
            ideal: None,
            time_scale: 10.0,
            spread: Spread::RoundRobin,
            seed: 1,
            timeout: Duration::from_secs(10),
        }
    }

    #[tokio::test]
    async fn first_and_last_tokens_are_timed() {
        let engine = EngineParams { per_seq_ms: 0.0, ..EngineParams::default() };
        let fleet = Fleet::start(&FleetConfig::local(2, engine, 10.0, 8)).unwrap();
        let replay = run(&workload(40), &config(&fleet), Progress::hidden()).await;
        assert_eq!(replay.errors(), 0, "{:?}", replay.samples.iter().find(|s| !s.is_ok()));
        let hosts =
            replay.samples.iter().filter(|s| s.host == Some(fleet.addresses()[0].to_string())).count();
        assert_eq!(hosts, 20);
        // On an idle host, the first token takes 20 + 10 ms. 19 more steps of 20 ms follow. On a busy machine, the client
        // may read each token late, but none early.
        let least = |times: Vec<f64>| times.into_iter().fold(f64::INFINITY, f64::min);
        let (first, last) = (replay.ttft_trace_ms(), replay.e2e_trace_ms());
        let middle = [first.clone(), last.clone()].map(|times| Percentiles::of(times).p50);
        assert!(least(first) >= 30.0 && least(last) >= 410.0 && middle[0] < middle[1], "{replay:?}");
        assert!(fleet.stats().iter().all(|s| s.in_flight == 0 && s.finished == 20));
    }

    #[tokio::test]
    async fn an_unreachable_gateway_does_not_stop_the_replay() {
        let fleet = Fleet::start(&FleetConfig::local(1, EngineParams::default(), 100.0, 8)).unwrap();
        let mut config = config(&fleet);
        config.gateways.push("http://127.0.0.1:1".into());
        let replay = run(&workload(10), &config, Progress::hidden()).await;
        assert_eq!((replay.samples.len(), replay.errors()), (10, 5));
        assert_eq!(replay.ttft_trace_ms().len(), 5);
    }
}
