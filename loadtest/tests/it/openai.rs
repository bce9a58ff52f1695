//! OpenAI's own client library against a gateway: what it makes of answers, limits and quotas, and what is charged.
//!
//! The calls are made by `tests/openai_client.py`; what the library saw comes back as JSON.

use std::{collections::BTreeMap, path::PathBuf, process::Command, time::Duration};

use evenkeel_loadtest::{
    engine::EngineParams,
    lab::{CLUSTER, Lab, Policy, paths},
};
use evenkeel_proto::v1::{self as pb, admin_client::AdminClient};
use serde::Deserialize;
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint};

use crate::{
    gateway::{metric, roomy, within},
    support,
};

/// Far more than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);
const PROMPT: u64 = 137;
const OUTPUT: u64 = 30;

/// A limit that counts everybody's tokens; one request in three seconds, by each algorithm, for those who are hasty; one
/// in a month for `greedy`; a quota of less than one request for `poor`.
const LIMITS: &str = "
limits:
  - {name: tokens, counts: tokens, amount: 1M, per: 31d, key: [consumer]}
  - {name: fixed, counts: requests, amount: 1, per: 3s, when: [{attribute: consumer, exact: hasty-fixed}]}
  - name: sliding
    counts: requests
    amount: 1
    per: 3s
    algorithm: sliding_window
    when: [{attribute: consumer, exact: hasty-sliding}]
  - name: bucket
    counts: requests
    amount: 1
    per: 3s
    algorithm: token_bucket
    when: [{attribute: consumer, exact: hasty-bucket}]
  - {name: once, counts: requests, amount: 1, per: 31d, when: [{attribute: consumer, exact: greedy}]}
quotas:
  - {name: balance, counts: tokens, kind: prepaid, default: 20, when: [{attribute: consumer, exact: poor}]}
";

/// What the library made of one call; see `openai_client.py`.
#[derive(Debug, Deserialize)]
struct Seen {
    text: String,
    /// Of the answer, or of each chunk that had the field.
    usages: Vec<Option<Usage>>,
    finish: Option<String>,
    chunks: usize,
    without_choices: usize,
    error: Option<Fault>,
    tries: Vec<Try>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
}

const USED: Usage = Usage { prompt_tokens: PROMPT, completion_tokens: OUTPUT, total_tokens: PROMPT + OUTPUT };

/// What it raised.
#[derive(Debug, Deserialize)]
struct Fault {
    class: String,
    status: Option<u16>,
    code: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    message: Option<String>,
    /// As the user reads it.
    text: String,
}

/// One request it sent. Times are in seconds of one clock.
#[derive(Debug, Deserialize)]
struct Try {
    sent: f64,
    answered: f64,
    retry: usize,
    status: u16,
    headers: BTreeMap<String, String>,
}

impl Seen {
    /// The whole text came.
    fn is_served(&self) {
        assert!(self.error.is_none(), "{self:?}");
        assert_eq!(self.text, " tok".repeat(OUTPUT as usize));
        assert_eq!(self.finish.as_deref(), Some("stop"));
        assert_eq!(self.tries.last().unwrap().status, 200);
    }

    /// Refused and raised, without a second try.
    fn is_refused(&self, code: &str, message: &str) -> &Try {
        let [only] = self.tries.as_slice() else { panic!("not one try: {self:?}") };
        assert_eq!((only.status, only.retry), (429, 0));
        let fault = self.error.as_ref().unwrap_or_else(|| panic!("nothing was raised: {self:?}"));
        assert_eq!((fault.class.as_str(), fault.status), ("RateLimitError", Some(429)), "{fault:?}");
        assert_eq!((fault.code.as_deref(), fault.kind.as_deref()), (Some(code), Some(code)), "{fault:?}");
        let told = fault.message.as_deref().unwrap_or_default();
        assert!(told.starts_with(message) && fault.text.contains(message), "{fault:?}");
        only
    }
}

/// A gateway that hides usage from streams whose clients did not ask, over Redis.
struct Chain {
    lab: Lab,
    python: PathBuf,
}

impl Chain {
    /// `None`, said aloud, where a program is not installed.
    async fn start() -> Option<Self> {
        let python = support::found(paths::python())?;
        let builder = Lab::builder()
            .hosts(2)
            .envoys(1)
            .sidecars(1)
            .redis()
            // Slowness of a busy machine must not look like an outage.
            .store_timeout(Duration::from_secs(5))
            .engine(EngineParams { base_ms: 1.0, ..roomy() })
            .token_batch(7)
            .sidecar_yaml(LIMITS)
            .plugin_config(|config| {
                config["deadline_ms"] = 10_000.into();
                config["on_error"] = "closed".into();
                config["read_body"] = true.into();
                config["include_usage"] = true.into();
            });
        Some(Self { lab: support::start(builder).await?, python })
    }

    /// Makes these calls, one after the other.
    fn call(&self, calls: &[Value]) -> Vec<Seen> {
        let script = paths::workspace().join("loadtest/tests/openai_client.py");
        let url = self.lab.envoys()[0].url(Policy::Evenkeel);
        // The library reads its environment; so does what it connects with, where a proxy may be set.
        let output = Command::new(&self.python)
            .env_clear()
            .args(["-I".as_ref(), script.as_os_str(), url.as_ref(), Value::from(calls).to_string().as_ref()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let seen: Vec<Seen> = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|fault| panic!("{fault}: {}", String::from_utf8_lossy(&output.stdout)));
        assert_eq!(seen.len(), calls.len());
        seen
    }

    async fn admin(&self) -> Result<AdminClient<Channel>, String> {
        let url = self.lab.sidecars()[0].grpc_url().ok_or("no gRPC over TCP")?;
        let endpoint = Endpoint::from_shared(url).map_err(|e| e.to_string())?;
        Ok(AdminClient::new(endpoint.connect().await.map_err(|e| e.to_string())?))
    }

    /// Waits until the ledger and the counter in Redis both say that so many requests were charged for what they used,
    /// and nothing is reckoned or still reserved.
    async fn charged(&self, consumer: &str, requests: u64) {
        let subject = pb::Subject { consumer: consumer.into(), ..pb::Subject::default() };
        let request = pb::AdmitRequest {
            pool: Some(pb::Pool { route: "chat".into(), cluster: CLUSTER.into() }),
            subject: Some(subject),
            model: "mock".into(),
            ..pb::AdmitRequest::default()
        };
        let explain = pb::ExplainRequest { request: Some(request) };
        let query = pb::QueryUsageRequest { consumer: consumer.into(), ..pb::QueryUsageRequest::default() };
        let expected = (requests, 0, requests * PROMPT, requests * OUTPUT);
        within(LIMIT, &format!("{requests} requests of {consumer} are charged"), || async {
            let mut admin = self.admin().await?;
            let usage = admin.query_usage(query.clone()).await.map_err(|e| e.to_string())?.into_inner();
            let usage = usage.total.unwrap_or_default();
            let tokens = usage.tokens.unwrap_or_default();
            let ledger = (usage.requests, usage.estimated, tokens.input, tokens.output);
            let limits = admin.explain(explain.clone()).await.map_err(|e| e.to_string())?.into_inner().limits;
            let counter = limits.iter().find(|limit| limit.name == "tokens").ok_or("no such limit")?;
            if ledger == expected && (counter.used, counter.reserved) == (requests * USED.total_tokens, 0) {
                return Ok(());
            }
            Err(format!("ledger {ledger:?}, counter {counter:?}"))
        })
        .await;
    }

    /// The quota of one consumer: balance, reserved, used, overrun.
    async fn balance(&self, consumer: &str) -> (u64, u64, u64, u64) {
        let get = pb::GetQuotaRequest { quota: "balance".into(), consumer: consumer.into() };
        let quota = self.admin().await.unwrap().get_quota(get).await.unwrap().into_inner();
        (quota.balance, quota.reserved, quota.used, quota.overrun)
    }

    /// Nothing went wrong on the way to an answer; a refusal is none of that.
    async fn is_sound(&self) {
        let metrics = self.lab.sidecars()[0].metrics().await.unwrap();
        let failed = |line: &&str| {
            line.starts_with("evenkeel_store_errors_total")
                || line.starts_with("evenkeel_limit_settles_total{result=\"error\"}")
        };
        for line in metrics.lines().filter(failed) {
            assert!(line.ends_with(" 0"), "{line}");
        }
    }
}

/// A call of so many tokens.
fn call(consumer: &str, via: &str) -> Value {
    json!({"consumer": consumer, "via": via, "prompt": PROMPT, "output": OUTPUT})
}

fn with(mut call: Value, name: &str, value: impl Into<Value>) -> Value {
    call[name] = value.into();
    call
}

#[tokio::test]
async fn what_is_charged_is_what_clients_are_told() {
    let Some(chain) = Chain::start().await else { return };
    let (asked, declined) = (json!({"include_usage": true}), json!({"include_usage": false}));
    let calls = [
        call("whole", "create"),
        with(call("whole-async", "create"), "asynchronous", true),
        with(call("asked", "stream"), "options", asked.clone()),
        with(with(call("asked-async", "stream"), "options", asked.clone()), "asynchronous", true),
        with(call("asked-helper", "helper"), "options", asked),
        call("silent", "stream"),
        with(call("silent-async", "stream"), "asynchronous", true),
        call("silent-helper", "helper"),
        with(call("declined", "stream"), "options", declined),
    ];
    for (call, seen) in calls.iter().zip(chain.call(&calls)) {
        let consumer = call["consumer"].as_str().unwrap();
        seen.is_served();
        assert_eq!(seen.tries.len(), 1);
        let is_stream = call["via"] != "create";
        assert_eq!(seen.chunks > 1, is_stream, "{seen:?}");
        if !is_stream {
            assert_eq!(seen.usages, [Some(USED)], "{consumer}");
        } else if call["options"]["include_usage"] == true {
            assert_eq!(seen.usages.last(), Some(&Some(USED)), "{consumer}");
            assert_eq!(
                (seen.usages.iter().flatten().count(), seen.without_choices),
                (1, 1),
                "{consumer}: {seen:?}"
            );
        } else {
            assert_eq!(
                (seen.usages.as_slice(), seen.without_choices),
                ([].as_slice(), 0),
                "{consumer}: {seen:?}"
            );
        }
        chain.charged(consumer, 1).await;
    }
    chain.is_sound().await;
}

#[tokio::test]
async fn clients_wait_as_they_are_told_and_are_served() {
    let Some(chain) = Chain::start().await else { return };
    let limits = ["fixed", "sliding", "bucket"];
    let seen = std::thread::scope(|scope| {
        let chain = &chain;
        let calls = |limit: &str| {
            let consumer = format!("hasty-{limit}");
            [
                call(&consumer, "create"),
                with(call(&consumer, "stream"), "retries", 2),
                with(with(call(&consumer, "create"), "retries", 2), "asynchronous", true),
                with(call(&consumer, "helper"), "retries", 2),
            ]
        };
        limits.map(|limit| scope.spawn(move || chain.call(&calls(limit)))).map(|calls| calls.join().unwrap())
    });
    for (limit, seen) in limits.into_iter().zip(seen) {
        let refused = seen.iter().map(|seen| waits(limit, seen)).sum::<usize>();
        // Each but the first came within three seconds of the one before it, unless something held it up for longer.
        assert!(refused >= 1, "no request was refused by {limit}");
        chain.charged(&format!("hasty-{limit}"), 4).await;
        for (result, count) in [("admitted", 4), ("refused", refused)] {
            let name = format!("evenkeel_limit_checks_total{{limit=\"{limit}\",result=\"{result}\"}}");
            assert_eq!(metric(&chain.lab, 0, &name).await, count as f64, "{name}");
        }
    }
    chain.is_sound().await;
}

/// One call that was served in the end, after it had waited as told; answers how often it was refused.
fn waits(limit: &str, seen: &Seen) -> usize {
    seen.is_served();
    // A wait as told is enough: nobody else asks.
    assert!(seen.tries.len() <= 2, "{limit}: {seen:?}");
    for pair in seen.tries.windows(2) {
        assert_eq!((pair[0].status, pair[1].retry), (429, 1), "{limit}: {seen:?}");
        let told: f64 = pair[0].headers["retry-after"].parse().unwrap();
        let waited = pair[1].sent - pair[0].answered;
        eprintln!("{limit}: told to wait {told} s, waited {waited:.3} s");
        // A sliding window may be a slot late.
        assert!((1.0..=4.0).contains(&told), "{limit}: {seen:?}");
        assert!(waited >= told, "{limit}: told {told} s, waited {waited} s");
    }
    seen.tries.len() - 1
}

#[tokio::test]
async fn a_reached_limit_is_raised_in_its_own_words() {
    let Some(chain) = Chain::start().await else { return };
    let again = |via: &str| call("greedy", via);
    let calls = [
        again("create"),
        again("create"),
        again("stream"),
        with(again("stream"), "asynchronous", true),
        // Told to wait for days, the library does not try again at all.
        with(again("helper"), "retries", 3),
    ];
    let seen = chain.call(&calls);
    seen[0].is_served();
    for seen in &seen[1..] {
        let refused = seen.is_refused(
            "rate_limit_exceeded",
            "limit \"once\" of 1 requests per 31d is reached; try again in ",
        );
        let told: u64 = refused.headers["retry-after"].parse().unwrap();
        assert!((1..=31 * 86_400).contains(&told), "{seen:?}");
        assert!(!refused.headers.contains_key("x-should-retry"), "{seen:?}");
    }
    chain.charged("greedy", 1).await;
    chain.is_sound().await;
}

#[tokio::test]
async fn an_exhausted_quota_is_raised_at_once() {
    let Some(chain) = Chain::start().await else { return };
    chain.call(&[call("poor", "create")])[0].is_served();
    chain.charged("poor", 1).await;
    assert_eq!(chain.balance("poor").await, (0, 0, USED.total_tokens, USED.total_tokens - 20));
    let calls = [
        with(call("poor", "create"), "retries", 3),
        with(call("poor", "stream"), "retries", 3),
        with(with(call("poor", "stream"), "retries", 3), "asynchronous", true),
    ];
    for seen in chain.call(&calls) {
        let refused =
            seen.is_refused("insufficient_quota", "quota \"balance\" does not suffice for this request");
        assert_eq!(refused.headers["x-should-retry"], "false");
        assert!(!refused.headers.contains_key("retry-after"), "{seen:?}");
    }
    chain.charged("poor", 1).await;
    chain.is_sound().await;
}
