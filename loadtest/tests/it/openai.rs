//! Tests of OpenAI's own client library against a gateway: how the library handles responses, limits and quotas, and
//! what the consumers are charged.
//!
//! `tests/openai_client.py` makes the calls and returns the library's view of the results as JSON.

use std::{collections::BTreeMap, path::PathBuf, process::Command, time::Duration};

use evenkeel_loadtest::{
    engine::EngineParams,
    lab::{CLUSTER, Lab, Policy, paths},
};
use evenkeel_proto::v1::{self as pb, admin_client::AdminClient};
use serde::Deserialize;
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::support::{
    admin::connect,
    lab::{self, exact_plugin, roomy_engine},
    pool::metric,
    wait::within,
};

/// Time limit for a wait. It is far longer than any wait takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);
const PROMPT: u64 = 137;
const OUTPUT: u64 = 30;

/// A token limit for all consumers; a limit of one request in three seconds, with each algorithm, for the `hasty-…`
/// consumers; a limit of one request in a month for `greedy`; a quota of less than one request for `poor`.
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

/// The library's result of one call; see `openai_client.py`.
#[derive(Debug, Deserialize)]
struct CallResult {
    text: String,
    /// Usage in the response, or in each chunk that has the field.
    usages: Vec<Option<Usage>>,
    finish: Option<String>,
    chunks: usize,
    without_choices: usize,
    error: Option<ApiError>,
    attempts: Vec<Attempt>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
}

const USED: Usage = Usage { prompt_tokens: PROMPT, completion_tokens: OUTPUT, total_tokens: PROMPT + OUTPUT };

/// The exception that the library raised.
#[derive(Debug, Deserialize)]
struct ApiError {
    class: String,
    status: Option<u16>,
    code: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    message: Option<String>,
    /// The exception as text.
    text: String,
}

/// One request that the library sent. Times are in seconds on one clock.
#[derive(Debug, Deserialize)]
struct Attempt {
    sent: f64,
    answered: f64,
    retry: usize,
    status: u16,
    headers: BTreeMap<String, String>,
}

impl CallResult {
    fn assert_served(&self) {
        assert!(self.error.is_none(), "{self:?}");
        assert_eq!(self.text, " tok".repeat(OUTPUT as usize));
        assert_eq!(self.finish.as_deref(), Some("stop"));
        assert_eq!(self.attempts.last().unwrap().status, 200);
    }

    /// Asserts that the request was refused, that an exception was raised, and that the library did not retry.
    fn assert_refused(&self, code: &str, message: &str) -> &Attempt {
        let [only] = self.attempts.as_slice() else { panic!("not one attempt: {self:?}") };
        assert_eq!((only.status, only.retry), (429, 0));
        let error = self.error.as_ref().unwrap_or_else(|| panic!("nothing was raised: {self:?}"));
        assert_eq!((error.class.as_str(), error.status), ("RateLimitError", Some(429)), "{error:?}");
        assert_eq!((error.code.as_deref(), error.kind.as_deref()), (Some(code), Some(code)), "{error:?}");
        let text = error.message.as_deref().unwrap_or_default();
        assert!(text.starts_with(message) && error.text.contains(message), "{error:?}");
        only
    }
}

/// A gateway that hides usage from clients that did not request it.
struct Fixture {
    lab: Lab,
    python: PathBuf,
}

impl Fixture {
    /// Starts the fixture. If a program is not installed, prints this and returns `None`.
    async fn start() -> Option<Self> {
        let python = lab::found(paths::python())?;
        let builder = Lab::builder()
            .hosts(2)
            .envoys(1)
            .sidecars(1)
            .redis()
            // A slow response on a busy machine must not count as an outage.
            .store_timeout(Duration::from_secs(5))
            .engine(EngineParams { base_ms: 1.0, ..roomy_engine() })
            .token_batch(7)
            .sidecar_yaml(LIMITS)
            .plugin_config(exact_plugin);
        Some(Self { lab: lab::start(builder).await?, python })
    }

    /// Makes these calls sequentially.
    fn call(&self, calls: &[Value]) -> Vec<CallResult> {
        let script = paths::workspace().join("loadtest/tests/openai_client.py");
        let url = self.lab.envoys()[0].url(Policy::EvenkeelLeastRequest);
        // The library and its HTTP client read the environment, which may set a proxy.
        let output = Command::new(&self.python)
            .env_clear()
            .args(["-I".as_ref(), script.as_os_str(), url.as_ref(), Value::from(calls).to_string().as_ref()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let results: Vec<CallResult> = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stdout)));
        assert_eq!(results.len(), calls.len());
        results
    }

    async fn admin(&self) -> Result<AdminClient<Channel>, String> {
        Ok(AdminClient::new(connect(&self.lab, 0).await?))
    }

    /// Waits until the ledger and the counter in Redis both show this number of requests with their actual usage, and
    /// nothing is estimated or still reserved.
    async fn wait_charged(&self, consumer: &str, requests: u64) {
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

    /// Returns a consumer's quota as (balance, reserved, used, overrun).
    async fn balance(&self, consumer: &str) -> (u64, u64, u64, u64) {
        let get = pb::GetQuotaRequest { quota: "balance".into(), consumer: consumer.into() };
        let quota = self.admin().await.unwrap().get_quota(get).await.unwrap().into_inner();
        (quota.balance, quota.reserved, quota.used, quota.overrun)
    }

    /// Asserts that no error occurred; refusals are not errors.
    async fn assert_no_errors(&self) {
        let metrics = self.lab.sidecars()[0].metrics().await.unwrap();
        let failed = |line: &&str| {
            line.starts_with("evenkeel_store_errors_total")
                || line.starts_with("evenkeel_limit_settlements_total{result=\"error\"}")
        };
        for line in metrics.lines().filter(failed) {
            assert!(line.ends_with(" 0"), "{line}");
        }
    }
}

fn call(consumer: &str, via: &str) -> Value {
    json!({"consumer": consumer, "via": via, "prompt": PROMPT, "output": OUTPUT})
}

fn with(mut call: Value, name: &str, value: impl Into<Value>) -> Value {
    call[name] = value.into();
    call
}

#[tokio::test]
async fn clients_see_the_usage_that_is_charged() {
    let Some(fixture) = Fixture::start().await else { return };
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
    for (call, result) in calls.iter().zip(fixture.call(&calls)) {
        let consumer = call["consumer"].as_str().unwrap();
        result.assert_served();
        assert_eq!(result.attempts.len(), 1);
        let is_stream = call["via"] != "create";
        assert_eq!(result.chunks > 1, is_stream, "{result:?}");
        if !is_stream {
            assert_eq!(result.usages, [Some(USED)], "{consumer}");
        } else if call["options"]["include_usage"] == true {
            assert_eq!(result.usages.last(), Some(&Some(USED)), "{consumer}");
            assert_eq!(
                (result.usages.iter().flatten().count(), result.without_choices),
                (1, 1),
                "{consumer}: {result:?}"
            );
        } else {
            assert_eq!(
                (result.usages.as_slice(), result.without_choices),
                ([].as_slice(), 0),
                "{consumer}: {result:?}"
            );
        }
        fixture.wait_charged(consumer, 1).await;
    }
    fixture.assert_no_errors().await;
}

#[tokio::test]
async fn clients_wait_for_retry_after_and_are_served() {
    let Some(fixture) = Fixture::start().await else { return };
    let limits = ["fixed", "sliding", "bucket"];
    let result = std::thread::scope(|scope| {
        let fixture = &fixture;
        let calls = |limit: &str| {
            let consumer = format!("hasty-{limit}");
            [
                call(&consumer, "create"),
                with(call(&consumer, "stream"), "retries", 2),
                with(with(call(&consumer, "create"), "retries", 2), "asynchronous", true),
                with(call(&consumer, "helper"), "retries", 2),
            ]
        };
        limits
            .map(|limit| scope.spawn(move || fixture.call(&calls(limit))))
            .map(|calls| calls.join().unwrap())
    });
    for (limit, result) in limits.into_iter().zip(result) {
        let refused = result.iter().map(|result| assert_waited(limit, result)).sum::<usize>();
        // Each request except the first came within three seconds of the previous one, unless the machine delayed it.
        assert!(refused >= 1, "no request was refused by {limit}");
        fixture.wait_charged(&format!("hasty-{limit}"), 4).await;
        for (result, count) in [("admitted", 4), ("refused", refused)] {
            let name = format!("evenkeel_limit_checks_total{{limit=\"{limit}\",result=\"{result}\"}}");
            assert_eq!(metric(&fixture.lab, 0, &name).await, count as f64, "{name}");
        }
    }
    fixture.assert_no_errors().await;
}

/// Asserts that a call was served after it had waited for `retry-after`. Returns the number of refusals.
fn assert_waited(limit: &str, result: &CallResult) -> usize {
    result.assert_served();
    // One wait suffices, because no other client uses the limit.
    assert!(result.attempts.len() <= 2, "{limit}: {result:?}");
    for pair in result.attempts.windows(2) {
        assert_eq!((pair[0].status, pair[1].retry), (429, 1), "{limit}: {result:?}");
        let retry_after: f64 = pair[0].headers["retry-after"].parse().unwrap();
        let waited = pair[1].sent - pair[0].answered;
        eprintln!("{limit}: retry-after {retry_after} s, waited {waited:.3} s");
        // A sliding window may take one slot longer.
        assert!((1.0..=4.0).contains(&retry_after), "{limit}: {result:?}");
        assert!(waited >= retry_after, "{limit}: retry-after {retry_after} s, waited {waited} s");
    }
    result.attempts.len() - 1
}

#[tokio::test]
async fn a_reached_limit_raises_an_exception_with_its_message() {
    let Some(fixture) = Fixture::start().await else { return };
    let greedy = |via: &str| call("greedy", via);
    let calls = [
        greedy("create"),
        greedy("create"),
        greedy("stream"),
        with(greedy("stream"), "asynchronous", true),
        // The library does not retry if `retry-after` is days away.
        with(greedy("helper"), "retries", 3),
    ];
    let result = fixture.call(&calls);
    result[0].assert_served();
    for result in &result[1..] {
        let refused = result.assert_refused(
            "rate_limit_exceeded",
            "limit \"once\" of 1 requests per 31d is reached; try again in ",
        );
        let retry_after: u64 = refused.headers["retry-after"].parse().unwrap();
        assert!((1..=31 * 86_400).contains(&retry_after), "{result:?}");
        assert!(!refused.headers.contains_key("x-should-retry"), "{result:?}");
    }
    fixture.wait_charged("greedy", 1).await;
    fixture.assert_no_errors().await;
}

#[tokio::test]
async fn an_exhausted_quota_raises_an_exception_without_a_retry() {
    let Some(fixture) = Fixture::start().await else { return };
    fixture.call(&[call("poor", "create")])[0].assert_served();
    fixture.wait_charged("poor", 1).await;
    assert_eq!(fixture.balance("poor").await, (0, 0, USED.total_tokens, USED.total_tokens - 20));
    let calls = [
        with(call("poor", "create"), "retries", 3),
        with(call("poor", "stream"), "retries", 3),
        with(with(call("poor", "stream"), "retries", 3), "asynchronous", true),
    ];
    for result in fixture.call(&calls) {
        let refused = result
            .assert_refused("insufficient_quota", "quota \"balance\" does not suffice for this request");
        assert_eq!(refused.headers["x-should-retry"], "false");
        assert!(!refused.headers.contains_key("retry-after"), "{result:?}");
    }
    fixture.wait_charged("poor", 1).await;
    fixture.assert_no_errors().await;
}
