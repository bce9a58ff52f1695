//! Limits and quotas through real gateways, held against what the mock hosts know they served.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use evenkeel_loadtest::{
    lab::{CLUSTER, Lab, LabBuilder, Policy},
    mock::{CONSUMER, FAIL, OUTPUT_TOKENS, PROMPT_TOKENS, Served, ServedEnd, TOKEN_BYTES},
};
use evenkeel_proto::v1::{self as pb, admin_client::AdminClient};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

use crate::{
    gateway::{roomy, within},
    support,
};

mod aborted;
mod burst;
mod changes;
mod failures;

/// Far more than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);
/// The administrator's token.
const TOKEN: &str = "an-administrators-token";

/// Gateways with a sidecar each, over one Redis.
struct Chain {
    lab: Lab,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// A request, and what its host will make of it.
#[derive(Clone, Debug)]
struct Ask {
    consumer: String,
    /// What is expected of requests is learnt by model.
    model: String,
    /// Bytes of its prompt: what is known of it beforehand.
    prompt_bytes: usize,
    prompt: u32,
    output: u32,
    token_bytes: u32,
    stream: bool,
    path: &'static str,
    headers: Vec<(&'static str, String)>,
}

impl Ask {
    /// A stream of 400 and 600 tokens, as [`SEEDS`] let expect, of a model that nobody else asks for.
    fn of(consumer: &str) -> Self {
        Self {
            consumer: consumer.to_owned(),
            model: consumer.to_owned(),
            prompt_bytes: 1600,
            prompt: 400,
            output: 600,
            token_bytes: 4,
            stream: true,
            path: "",
            headers: Vec::new(),
        }
    }

    /// What it really uses.
    fn uses(mut self, prompt: u32, output: u32) -> Self {
        (self.prompt, self.output) = (prompt, output);
        self
    }

    fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    fn failing(self, how: &str) -> Self {
        self.header(FAIL, how)
    }

    /// Bytes of text in each of its tokens.
    fn token_bytes(mut self, bytes: u32) -> Self {
        self.token_bytes = bytes;
        self
    }

    /// Through a route of its own; see the lab's gateways.
    fn by(mut self, path: &'static str) -> Self {
        self.path = path;
        self
    }

    /// Answered in one piece.
    fn whole(mut self) -> Self {
        self.stream = false;
        self
    }

    fn build(&self, url: &str) -> Request<Full<Bytes>> {
        let content = "x".repeat(self.prompt_bytes);
        let messages = serde_json::json!([{"role": "user", "content": content}]);
        let body = serde_json::json!({"model": self.model, "messages": messages, "stream": self.stream});
        let mut request = Request::post(format!("{url}{}/v1/chat/completions", self.path))
            .header("content-type", "application/json")
            .header(CONSUMER, &self.consumer)
            .header(PROMPT_TOKENS, self.prompt)
            .header(OUTPUT_TOKENS, self.output)
            .header(TOKEN_BYTES, self.token_bytes);
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        request.body(Full::from(body.to_string())).unwrap()
    }
}

/// What to expect of a request as [`Ask::of`] makes them: 1000 tokens.
const SEEDS: &str = "models: [{model: \"*\", output_tokens: 600, bytes_per_token: 4}]\n";

/// An answer, read to its end.
#[derive(Clone, Debug)]
struct Reply {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Reply {
    async fn read(response: Response<Incoming>) -> Result<Self, hyper::Error> {
        let (parts, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(Self { status: parts.status.as_u16(), headers: parts.headers, body })
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.headers)).to_str().unwrap()
    }

    /// A complete answer; its text came, and usage nobody asked for did not.
    fn is_served(&self) {
        assert_eq!(self.status, 200, "{}", self.body);
        assert!(self.body.contains("[DONE]") && !self.body.contains("usage"), "{}", self.body);
    }

    /// Refused by this limit, in words clients act on.
    fn is_refused_by(&self, limit: &str, kind: &str) {
        assert_eq!(self.status, 429, "{}", self.body);
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!((&body["error"]["type"], &body["error"]["code"]), (&kind.into(), &kind.into()), "{body}");
        assert!(body["error"]["message"].as_str().unwrap().contains(limit), "{body}");
        assert!(self.header("ratelimit-policy").contains(&format!("\"{limit}\";q=")), "{:?}", self.headers);
        assert!(self.header("ratelimit").contains(&format!("\"{limit}\";r=")), "{:?}", self.headers);
    }
}

/// Requests sent at once.
struct Wave {
    requests: Vec<JoinHandle<Result<Reply, String>>>,
    /// Those that have been answered.
    answered: Arc<AtomicUsize>,
    consumer: String,
    /// Of this consumer's that were served before.
    before: usize,
}

impl Wave {
    /// Waits until each is either at a host, which are held, or refused; answers how many are at hosts.
    async fn decided(&self, chain: &Chain) -> usize {
        let at_hosts = || chain.served(&self.consumer).len() - self.before;
        within(LIMIT, "every request is decided on", || async {
            let (at_hosts, answered) = (at_hosts(), self.answered.load(Ordering::Relaxed));
            if at_hosts + answered == self.requests.len() {
                return Ok(());
            }
            Err(format!("{at_hosts} at hosts, {answered} answered, of {}", self.requests.len()))
        })
        .await;
        at_hosts()
    }

    /// All answers; every request must have one.
    async fn replies(self) -> Vec<Reply> {
        let replies = futures::future::join_all(self.requests).await;
        replies.into_iter().map(|reply| reply.unwrap().unwrap()).collect()
    }
}

/// What the hosts know they served one consumer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Truth {
    requests: u64,
    tokens: u64,
}

impl Chain {
    /// `gateways` Envoys. `limits` are top-level lines of the sidecars' configuration.
    fn builder(gateways: usize, limits: &str) -> LabBuilder {
        let admin = format!("admin: {{tokens: [{{name: tests, token: {TOKEN}}}]}}");
        Lab::builder()
            .hosts(2)
            .envoys(gateways)
            .sidecars(gateways)
            .redis()
            // Slowness of a busy machine must not look like an outage.
            .store_timeout(Duration::from_secs(5))
            .engine(evenkeel_loadtest::engine::EngineParams { base_ms: 0.2, ..roomy() })
            .token_batch(20)
            .sidecar_yaml(&format!("{admin}\n{SEEDS}{limits}"))
            .plugin_config(|config| {
                config["deadline_ms"] = 10_000.into();
                config["on_error"] = "closed".into();
                config["read_body"] = true.into();
                config["include_usage"] = true.into();
            })
    }

    async fn start(builder: LabBuilder) -> Option<Self> {
        Some(Self { lab: support::start(builder).await?, client: support::client() })
    }

    fn url(&self, gateway: usize) -> String {
        self.lab.envoys()[gateway].url(Policy::Evenkeel)
    }

    /// One request, answered.
    async fn ask(&self, gateway: usize, ask: &Ask) -> Reply {
        let response = self.client.request(ask.build(&self.url(gateway))).await.unwrap();
        Reply::read(response).await.unwrap()
    }

    /// Opens a response, on a connection of its own: dropping it aborts the request.
    async fn open(&self, gateway: usize, ask: &Ask) -> Response<Incoming> {
        let response = support::client().request(ask.build(&self.url(gateway))).await.unwrap();
        assert_eq!(response.status(), 200);
        response
    }

    /// Sends requests at once, by turns through these gateways.
    fn send(&self, gateways: &[usize], count: usize, ask: &Ask) -> Wave {
        let answered = Arc::new(AtomicUsize::new(0));
        let request = |i: usize| {
            let request = ask.build(&self.url(gateways[i % gateways.len()]));
            let (client, answered) = (self.client.clone(), Arc::clone(&answered));
            tokio::spawn(async move {
                let response = client.request(request).await.map_err(|e| e.to_string())?;
                let reply = Reply::read(response).await.map_err(|e| e.to_string())?;
                answered.fetch_add(1, Ordering::Relaxed);
                Ok(reply)
            })
        };
        Wave {
            requests: (0..count).map(request).collect(),
            consumer: ask.consumer.clone(),
            before: self.served(&ask.consumer).len(),
            answered,
        }
    }

    /// Sends requests at once while the hosts are held, and answers when all are decided on.
    async fn hold(&self, gateways: &[usize], count: usize, ask: &Ask) -> (Wave, usize) {
        self.lab.fleet().hold();
        let wave = self.send(gateways, count, ask);
        let at_hosts = wave.decided(self).await;
        (wave, at_hosts)
    }

    fn served(&self, consumer: &str) -> Vec<Served> {
        let mut served = self.lab.fleet().served();
        served.retain(|served| served.consumer == consumer);
        served
    }

    /// What the hosts served this consumer. All of it must have been served to the end.
    fn truth(&self, consumer: &str) -> Truth {
        let served = self.served(consumer);
        let complete = |served: &Served| served.end == Some(ServedEnd::Complete);
        assert!(served.iter().all(complete), "{:?}", served.iter().find(|served| !complete(served)));
        let tokens = served.iter().map(|served| u64::from(served.prompt + served.streamed)).sum();
        Truth { requests: served.len() as u64, tokens }
    }

    async fn channel(&self, sidecar: usize) -> Result<Channel, String> {
        let url = self.lab.sidecars()[sidecar].grpc_url().ok_or("no gRPC over TCP")?;
        let endpoint = Endpoint::from_shared(url).map_err(|e| e.to_string())?;
        endpoint.connect().await.map_err(|e| e.to_string())
    }

    /// A sidecar's administration, with the token.
    async fn admin(&self, sidecar: usize) -> Result<Admin, String> {
        Ok(AdminClient::with_interceptor(self.channel(sidecar).await?, token_shown as ShowToken))
    }

    /// The limits and quotas of a request, by name, asked of one sidecar.
    async fn explain(&self, sidecar: usize, ask: &Ask) -> Result<BTreeMap<String, pb::Explanation>, String> {
        let headers = ask.headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let subject = pb::Subject { consumer: ask.consumer.clone(), headers, ..pb::Subject::default() };
        let request = pb::AdmitRequest {
            pool: Some(pb::Pool { route: "chat".into(), cluster: CLUSTER.into() }),
            subject: Some(subject),
            model: ask.model.clone(),
            prompt_bytes: ask.prompt_bytes as u64,
            ..pb::AdmitRequest::default()
        };
        let request = pb::ExplainRequest { request: Some(request) };
        let explained = self.admin(sidecar).await?.explain(request).await.map_err(|e| e.to_string())?;
        Ok(explained.into_inner().limits.into_iter().map(|limit| (limit.name.clone(), limit)).collect())
    }

    /// What one limit or quota has used, and how much of that is reserved.
    async fn used(&self, sidecar: usize, ask: &Ask, limit: &str) -> Result<(u64, u64), String> {
        let mut limits = self.explain(sidecar, ask).await?;
        let limit = limits.remove(limit).ok_or("no such limit")?;
        Ok((limit.used, limit.reserved))
    }

    /// Waits until one limit or quota has used so much, and so much of that is reserved.
    async fn uses(&self, sidecar: usize, ask: &Ask, limit: &str, used: u64, reserved: u64) {
        within(
            LIMIT,
            &format!("{limit} of {} has used {used}, {reserved} of it reserved", ask.consumer),
            || async {
                let seen = self.used(sidecar, ask, limit).await?;
                if seen == (used, reserved) { Ok(()) } else { Err(format!("{seen:?}")) }
            },
        )
        .await;
    }

    /// One consumer's usage in the ledger, asked of one sidecar.
    async fn usage(&self, sidecar: usize, consumer: &str) -> Result<pb::Usage, String> {
        let request = pb::QueryUsageRequest { consumer: consumer.into(), ..pb::QueryUsageRequest::default() };
        let usage = self.admin(sidecar).await?.query_usage(request).await.map_err(|e| e.to_string())?;
        Ok(usage.into_inner().total.unwrap_or_default())
    }

    /// Waits until the ledger says of a consumer what the hosts say; nothing of it may be reckoned.
    async fn ledger_agrees(&self, sidecar: usize, consumer: &str) {
        let truth = self.truth(consumer);
        within(LIMIT, "the ledger agrees with the hosts", || async {
            let usage = self.usage(sidecar, consumer).await?;
            let tokens = usage.tokens.unwrap_or_default();
            let told = Truth { requests: usage.requests, tokens: tokens.input + tokens.output };
            if told == truth && usage.estimated == 0 {
                Ok(())
            } else {
                Err(format!("{usage:?}, not {truth:?}"))
            }
        })
        .await;
    }

    /// Waits for the next window of this length, by Redis's clock, unless so much of the present one is left.
    async fn window(&mut self, length: Duration, left: Duration) {
        let mut connection = self.lab.redis().connect().await.unwrap();
        loop {
            let (s, us): (u64, u64) = redis::cmd("TIME").query_async(&mut connection).await.unwrap();
            let gone = Duration::from_micros(s * 1_000_000 + us).as_millis() % length.as_millis();
            if gone + left.as_millis() <= length.as_millis() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A limit's cell of a fixed window as it is in Redis: used, reserved.
    async fn cell(&mut self, consumer: &str, limit: &str) -> Option<(f64, f64)> {
        let mut connection = self.lab.redis().connect().await.unwrap();
        let key = format!("ek2:{{consumer={consumer}}}:counters");
        let value: Option<Vec<u8>> = redis::cmd("GET").arg(key).query_async(&mut connection).await.unwrap();
        let value = value?;
        // The text in front names each counter: kind, number of doubles, length of the name, name.
        let length = |at: usize| usize::from(u16::from_le_bytes([value[at], value[at + 1]]));
        let (text_end, mut entry, mut first) = (2 + length(0), 2, 2);
        while entry < text_end && value[entry + 4..entry + 4 + length(entry + 2)] != *limit.as_bytes() {
            first += usize::from(value[entry + 1]);
            entry += 4 + length(entry + 2);
        }
        let doubles = (entry < text_end).then(|| &value[text_end + 8 * first..])?;
        let number = |at: usize| f64::from_le_bytes(doubles[8 * at..8 * at + 8].try_into().unwrap());
        Some((number(1), number(2)))
    }
}

type Admin = AdminClient<tonic::service::interceptor::InterceptedService<Channel, ShowToken>>;
type ShowToken = fn(tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status>;

#[allow(clippy::unnecessary_wraps, clippy::result_large_err)]
fn token_shown(mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
    let value = format!("Bearer {TOKEN}").parse().map_err(|_| tonic::Status::internal("the token"))?;
    request.metadata_mut().insert("authorization", value);
    Ok(request)
}
