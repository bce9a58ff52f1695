//! The gateways under test, and functions that read the counts of the hosts, the limits and the ledger.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use evenkeel_loadtest::{
    engine::EngineParams,
    lab::{CLUSTER, Lab, LabBuilder, Policy},
    mock::{Served, ServedEnd},
};
use evenkeel_proto::v1 as pb;
use http::Response;
use hyper::body::Incoming;
use tokio::task::JoinHandle;

use super::{
    LIMIT,
    request::{ChatRequest, Reply, SEEDS},
};
use crate::support::{
    admin::{self, Admin},
    chat::{self, HttpClient},
    lab::{self, exact_plugin, roomy_engine},
    wait::within,
};

/// Gateways with a sidecar each, over one Redis.
pub(super) struct Fixture {
    pub(super) lab: Lab,
    client: HttpClient,
}

pub(super) struct Batch {
    pub(super) requests: Vec<JoinHandle<Result<Reply, String>>>,
    /// Number of requests with a complete response.
    answered: Arc<AtomicUsize>,
    consumer: String,
    /// Number of the consumer's requests that the hosts served before this batch.
    served_before: usize,
}

impl Batch {
    /// Waits until each request is either held at a host or refused. Returns the number of requests at hosts.
    pub(super) async fn wait_decided(&self, fixture: &Fixture) -> usize {
        let at_hosts = || fixture.served(&self.consumer).len() - self.served_before;
        within(LIMIT, "every request is at a host or refused", || async {
            let (at_hosts, answered) = (at_hosts(), self.answered.load(Ordering::Relaxed));
            if at_hosts + answered == self.requests.len() {
                return Ok(());
            }
            Err(format!("{at_hosts} at hosts, {answered} answered, of {}", self.requests.len()))
        })
        .await;
        at_hosts()
    }

    /// Waits until each request has a complete response.
    pub(super) async fn wait_answered(&self, limit: Duration) {
        within(limit, "every request is answered", || async {
            let answered = self.answered.load(Ordering::Relaxed);
            if answered == self.requests.len() { Ok(()) } else { Err(answered.to_string()) }
        })
        .await;
    }

    /// Returns all replies. Panics if a request has no reply.
    pub(super) async fn replies(self) -> Vec<Reply> {
        let replies = futures::future::join_all(self.requests).await;
        replies.into_iter().map(|reply| reply.unwrap().unwrap()).collect()
    }
}

/// The requests and tokens that the hosts served to one consumer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HostTotals {
    pub(super) requests: u64,
    pub(super) tokens: u64,
}

impl Fixture {
    /// Configures `gateways` gateways. `limits` are top-level lines of the sidecars' configuration.
    pub(super) fn builder(gateways: usize, limits: &str) -> LabBuilder {
        let admin = admin::config();
        Lab::builder()
            .hosts(2)
            .envoys(gateways)
            .sidecars(gateways)
            .redis()
            // A slow response on a busy machine must not count as an outage.
            .store_timeout(Duration::from_secs(5))
            .engine(EngineParams { base_ms: 0.2, ..roomy_engine() })
            .token_batch(20)
            .sidecar_yaml(&format!("{admin}\n{SEEDS}{limits}"))
            .plugin_config(exact_plugin)
    }

    pub(super) async fn start(builder: LabBuilder) -> Option<Self> {
        Some(Self { lab: lab::start(builder).await?, client: chat::client() })
    }

    pub(super) fn url(&self, gateway: usize) -> String {
        self.lab.envoys()[gateway].url(Policy::EvenkeelLeastRequest)
    }

    /// Sends a request and reads its response.
    pub(super) async fn send(&self, gateway: usize, request: &ChatRequest) -> Reply {
        let response = self.client.request(request.build(&self.url(gateway))).await.unwrap();
        Reply::read(response).await.unwrap()
    }

    /// Sends a request on its own connection, so that dropping the response aborts the request.
    pub(super) async fn open(&self, gateway: usize, request: &ChatRequest) -> Response<Incoming> {
        let response = chat::client().request(request.build(&self.url(gateway))).await.unwrap();
        assert_eq!(response.status(), 200);
        response
    }

    /// Sends requests concurrently, alternating between these gateways.
    pub(super) fn send_all(&self, gateways: &[usize], count: usize, request: &ChatRequest) -> Batch {
        let answered = Arc::new(AtomicUsize::new(0));
        let start = |i: usize| {
            let request = request.build(&self.url(gateways[i % gateways.len()]));
            let (client, answered) = (self.client.clone(), Arc::clone(&answered));
            tokio::spawn(async move {
                let response = client.request(request).await.map_err(|e| e.to_string())?;
                let reply = Reply::read(response).await.map_err(|e| e.to_string())?;
                answered.fetch_add(1, Ordering::Relaxed);
                Ok(reply)
            })
        };
        Batch {
            requests: (0..count).map(start).collect(),
            consumer: request.consumer.clone(),
            served_before: self.served(&request.consumer).len(),
            answered,
        }
    }

    /// Sends requests concurrently while the hosts hold requests back. Waits until each request is at a host or
    /// refused. Also returns the number of requests at hosts.
    pub(super) async fn hold(
        &self,
        gateways: &[usize],
        count: usize,
        request: &ChatRequest,
    ) -> (Batch, usize) {
        self.lab.fleet().hold();
        let batch = self.send_all(gateways, count, request);
        let at_hosts = batch.wait_decided(self).await;
        (batch, at_hosts)
    }

    pub(super) fn served(&self, consumer: &str) -> Vec<Served> {
        let mut served = self.lab.fleet().served();
        served.retain(|served| served.consumer == consumer);
        served
    }

    /// Returns the requests and tokens that the hosts served to this consumer. Panics if a request is not complete.
    pub(super) fn host_totals(&self, consumer: &str) -> HostTotals {
        let served = self.served(consumer);
        let complete = |served: &Served| served.end == Some(ServedEnd::Complete);
        assert!(served.iter().all(complete), "{:?}", served.iter().find(|served| !complete(served)));
        let tokens = served.iter().map(|served| u64::from(served.prompt + served.streamed)).sum();
        HostTotals { requests: served.len() as u64, tokens }
    }

    /// Connects to a sidecar's Admin service.
    pub(super) async fn admin(&self, sidecar: usize) -> Result<Admin, String> {
        admin::admin(&self.lab, sidecar).await
    }

    /// Returns a request's limits and quotas by name, as one sidecar reads them.
    pub(super) async fn explain(
        &self,
        sidecar: usize,
        request: &ChatRequest,
    ) -> Result<BTreeMap<String, pb::Explanation>, String> {
        let headers =
            request.headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let subject = pb::Subject { consumer: request.consumer.clone(), headers, ..pb::Subject::default() };
        let admit = pb::AdmitRequest {
            pool: Some(pb::Pool { route: "chat".into(), cluster: CLUSTER.into() }),
            subject: Some(subject),
            model: request.model.clone(),
            prompt_bytes: request.prompt_bytes as u64,
            ..pb::AdmitRequest::default()
        };
        let explain = pb::ExplainRequest { request: Some(admit) };
        let explained = self.admin(sidecar).await?.explain(explain).await.map_err(|e| e.to_string())?;
        Ok(explained.into_inner().limits.into_iter().map(|limit| (limit.name.clone(), limit)).collect())
    }

    /// Returns the usage of one limit or quota, and the reserved part of this usage.
    pub(super) async fn used(
        &self,
        sidecar: usize,
        request: &ChatRequest,
        limit: &str,
    ) -> Result<(u64, u64), String> {
        let mut limits = self.explain(sidecar, request).await?;
        let limit = limits.remove(limit).ok_or("no such limit")?;
        Ok((limit.used, limit.reserved))
    }

    /// Waits until the usage of one limit or quota is `used`, including `reserved` for reservations.
    pub(super) async fn wait_used(
        &self,
        sidecar: usize,
        request: &ChatRequest,
        limit: &str,
        used: u64,
        reserved: u64,
    ) {
        within(
            LIMIT,
            &format!("{limit} of {} has used {used}, {reserved} of it reserved", request.consumer),
            || async {
                let seen = self.used(sidecar, request, limit).await?;
                if seen == (used, reserved) { Ok(()) } else { Err(format!("{seen:?}")) }
            },
        )
        .await;
    }

    /// Asks a sidecar for a consumer's usage in the ledger.
    pub(super) async fn usage(&self, sidecar: usize, consumer: &str) -> Result<pb::Usage, String> {
        let request = pb::QueryUsageRequest { consumer: consumer.into(), ..pb::QueryUsageRequest::default() };
        let usage = self.admin(sidecar).await?.query_usage(request).await.map_err(|e| e.to_string())?;
        Ok(usage.into_inner().total.unwrap_or_default())
    }

    /// Waits until the ledger contains exactly the requests and tokens that the hosts served to a consumer, with no
    /// estimates.
    pub(super) async fn wait_ledger_matches_hosts(&self, sidecar: usize, consumer: &str) {
        let host_totals = self.host_totals(consumer);
        within(LIMIT, "the ledger matches the hosts", || async {
            let usage = self.usage(sidecar, consumer).await?;
            let tokens = usage.tokens.unwrap_or_default();
            let ledger = HostTotals { requests: usage.requests, tokens: tokens.input + tokens.output };
            if ledger == host_totals && usage.estimated == 0 {
                Ok(())
            } else {
                Err(format!("{usage:?}, not {host_totals:?}"))
            }
        })
        .await;
    }

    /// Waits for the next window of this length by Redis's clock, unless at least `left` remains of the current window.
    pub(super) async fn wait_window(&mut self, length: Duration, left: Duration) {
        let mut connection = self.lab.redis().connect().await.unwrap();
        loop {
            let (s, us): (u64, u64) = redis::cmd("TIME").query_async(&mut connection).await.unwrap();
            let elapsed = Duration::from_micros(s * 1_000_000 + us).as_millis() % length.as_millis();
            if elapsed + left.as_millis() <= length.as_millis() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Reads the counter of a fixed window directly from Redis. Returns the used and the reserved amount.
    pub(super) async fn redis_counter(&mut self, consumer: &str, limit: &str) -> Option<(f64, f64)> {
        let mut connection = self.lab.redis().connect().await.unwrap();
        let key = format!("ek2:{{consumer={consumer}}}:counters");
        let value: Option<Vec<u8>> = redis::cmd("GET").arg(key).query_async(&mut connection).await.unwrap();
        let value = value?;
        // The value starts with a text that describes each counter: kind, number of doubles, length of the name, name.
        let length = |at: usize| usize::from(u16::from_le_bytes([value[at], value[at + 1]]));
        let (text_end, mut entry, mut first) = (2 + length(0), 2, 2);
        while entry < text_end && value[entry + 4..entry + 4 + length(entry + 2)] != *limit.as_bytes() {
            first += usize::from(value[entry + 1]);
            entry += 4 + length(entry + 2);
        }
        let doubles = (entry < text_end).then(|| &value[text_end + 8 * first..])?;
        let number = |index: usize| f64::from_le_bytes(doubles[8 * index..8 * index + 8].try_into().unwrap());
        Some((number(1), number(2)))
    }
}
