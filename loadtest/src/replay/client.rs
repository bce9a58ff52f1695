//! One request: sent, read to its end, its first event timed.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request as HttpRequest, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};

use super::Sample;
use crate::{
    lab::PICK_HEADER,
    mock::{HOST, OUTPUT_TOKENS, PROMPT_TOKENS},
    workload::Request,
};

/// Sends requests over kept connections. Clones share them.
#[derive(Clone, Debug)]
pub struct Sender {
    client: Client<HttpConnector, Full<Bytes>>,
    timeout: Duration,
}

/// What came of one request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// When the first SSE event arrived.
    pub first: Option<Instant>,
    /// When the answer ended.
    pub end: Instant,
    /// HTTP status.
    pub status: Option<StatusCode>,
    /// Host that answered.
    pub host: Option<String>,
    /// What went wrong.
    pub error: Option<String>,
}

impl Sender {
    /// With no connections yet.
    pub fn new(timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .build(connector);
        Self { client, timeout }
    }

    /// Sends one request through `gateway` and reads the answer.
    pub async fn send(&self, gateway: &str, request: Request, host: Option<SocketAddr>) -> Answer {
        let mut answer = Answer { first: None, end: Instant::now(), status: None, host: None, error: None };
        let exchange = self.exchange(gateway, request, host, &mut answer);
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => answer.error = Some(fault),
            Err(_) => answer.error = Some("timeout".into()),
        }
        answer.end = Instant::now();
        answer
    }

    async fn exchange(
        &self,
        gateway: &str,
        request: Request,
        host: Option<SocketAddr>,
        answer: &mut Answer,
    ) -> Result<(), String> {
        let mut builder = HttpRequest::post(format!("{gateway}/v1/chat/completions"))
            .header("content-type", "application/json")
            .header(PROMPT_TOKENS, request.prompt)
            .header(OUTPUT_TOKENS, request.output);
        if let Some(host) = host {
            builder = builder.header(PICK_HEADER, host.to_string());
        }
        let body = r#"{"model":"mock","messages":[{"role":"user","content":"replay"}],"stream":true}"#;
        let request = builder.body(Full::from(body)).map_err(|e| e.to_string())?;
        let response = self.client.request(request).await.map_err(|e| chain(&e))?;
        answer.status = Some(response.status());
        answer.host = response.headers().get(HOST).and_then(|h| h.to_str().ok()).map(str::to_owned);
        let good = response.status().is_success();
        let mut body = response.into_body();
        let mut ends_well = false;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| chain(&e))?;
            let Some(data) = frame.data_ref() else { continue };
            if answer.first.is_none() && good {
                answer.first = Some(Instant::now());
            }
            ends_well = data.ends_with(b"[DONE]\n\n") || (ends_well && data.is_empty());
        }
        match answer.status {
            Some(status) if !good => Err(format!("status {}", status.as_u16())),
            _ if !ends_well => Err("the stream ended before [DONE]".into()),
            _ => Ok(()),
        }
    }
}

impl Answer {
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

/// An error with its sources, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::EngineParams,
        mock::{Fleet, FleetConfig},
        replay::{Progress, ReplayConfig, Spread, run},
        workload::Workload,
    };

    fn workload(n: u64) -> Workload {
        let requests =
            (0..n).map(|i| Request { at: Duration::from_millis(20 * i), prompt: 100, output: 20 }).collect();
        Workload { source: "test".into(), requests, duration: Duration::from_millis(20 * n) }
    }

    fn config(fleet: &Fleet) -> ReplayConfig {
        ReplayConfig {
            gateways: fleet.addresses().iter().map(|a| format!("http://{a}")).collect(),
            ideal_over: None,
            time_scale: 10.0,
            spread: Spread::RoundRobin,
            seed: 1,
            timeout: Duration::from_secs(10),
        }
    }

    #[tokio::test]
    async fn a_replay_times_first_and_last_token() {
        let engine = EngineParams { per_seq_ms: 0.0, ..EngineParams::default() };
        let fleet = Fleet::start(&FleetConfig::local(2, engine, 10.0, 8)).unwrap();
        let replay = run(&workload(40), &config(&fleet), Progress::hidden()).await;
        assert_eq!(replay.errors(), 0, "{:?}", replay.samples.iter().find(|s| !s.is_ok()));
        let hosts =
            replay.samples.iter().filter(|s| s.host == Some(fleet.addresses()[0].to_string())).count();
        assert_eq!(hosts, 20);
        // An idle host's first token takes 20 + 10 ms; 19 more steps of 20 follow.
        let first = Percentiles::of(replay.ttft_trace_ms());
        let last = Percentiles::of(replay.e2e_trace_ms());
        assert!(first.p50 >= 30.0 && last.p50 >= first.p50 + 380.0, "{first:?} {last:?}");
        assert!(fleet.stats().iter().all(|s| s.in_flight == 0 && s.finished == 20));
    }

    #[tokio::test]
    async fn a_gateway_that_is_not_there_is_an_error_not_a_stop() {
        let fleet = Fleet::start(&FleetConfig::local(1, EngineParams::default(), 100.0, 8)).unwrap();
        let mut config = config(&fleet);
        config.gateways.push("http://127.0.0.1:1".into());
        let replay = run(&workload(10), &config, Progress::hidden()).await;
        assert_eq!((replay.samples.len(), replay.errors()), (10, 5));
        assert_eq!(replay.ttft_trace_ms().len(), 5);
    }

    use crate::figures::Percentiles;
}
