//! The lab's end of the pipe to the Node.js program that drives the browser. It owns the lab, and carries out the
//! requests of the checks.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use evenkeel_loadtest::{
    lab::{Lab, Policy, paths},
    mock::{CONSUMER, OUTPUT_TOKENS, PROMPT_TOKENS},
};
use evenkeel_proto::v1::{Unanswered, UnansweredCounts};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{TOKEN, scene::PassingWorker};
use crate::support::{chat, pool::by_hosts, traffic::ENDLESS};

/// Time limit for all checks. It is far longer than the checks take on a busy machine.
const LIMIT: Duration = Duration::from_secs(420);
/// Time limit for one request, which may be sent while a sidecar is starting.
const PATIENCE: Duration = Duration::from_secs(20);

/// A lab and the open requests.
pub(super) struct Driver {
    pub(super) lab: Lab,
    held: Vec<Response<Incoming>>,
    sent: usize,
    /// Simulated workers, by the name of their gateway.
    passing: BTreeMap<String, PassingWorker>,
}

/// A child process. Dropping this value kills the process by its own process id.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Ask {
    pub(super) consumer: String,
    pub(super) model: String,
    pub(super) session: String,
    pub(super) request_id: String,
    pub(super) prompt: u32,
    pub(super) output: u32,
}

impl Ask {
    pub(super) fn build(&self, url: &str) -> Request<Full<bytes::Bytes>> {
        let content = "x".repeat(4 * self.prompt as usize);
        let messages = json!([{"role": "user", "content": content}]);
        let body = json!({"model": self.model, "messages": messages, "stream": true});
        let mut request = Request::post(format!("{url}/v1/chat/completions"))
            .header("content-type", "application/json")
            .header(PROMPT_TOKENS, self.prompt)
            .header(OUTPUT_TOKENS, self.output);
        let headers =
            [(CONSUMER, &self.consumer), ("x-session-id", &self.session), ("x-request-id", &self.request_id)];
        for (name, value) in headers {
            if !value.is_empty() {
                request = request.header(name, value);
            }
        }
        request.body(Full::from(body.to_string())).unwrap()
    }
}

impl Driver {
    pub(super) fn new(lab: Lab) -> Self {
        Self { lab, held: Vec::new(), sent: 0, passing: BTreeMap::new() }
    }

    /// Runs a script in `server/evenkeel/page/tests`. Panics if the script fails.
    pub(super) async fn run(&mut self, script: &Path, arguments: &[&str], variables: &[(&str, &str)]) {
        let urls: Vec<String> = (self.lab.sidecars().iter())
            .map(|sidecar| format!("http://{}/", sidecar.ready().http.as_deref().unwrap()))
            .collect();
        let mut child = Command::new(paths::node().unwrap())
            .arg(paths::workspace().join("server/evenkeel/page/tests").join(script))
            .args(arguments)
            .env(paths::PAGE_TOOLS, paths::page_tools().unwrap())
            .env(paths::BROWSER, paths::browser().unwrap())
            .env("EVENKEEL_PAGE_URLS", urls.join(","))
            .env("EVENKEEL_PAGE_TOKEN", TOKEN)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut answers, told) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let log = child.stderr.take().unwrap();
        let log = std::thread::spawn(move || {
            let mut whole = String::new();
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                eprintln!("{line}");
                whole.push_str(&line);
                whole.push('\n');
            }
            whole
        });
        let mut child = Running(child);
        let (lines, mut asked) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in BufReader::new(told).lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    return;
                }
            }
        });
        let all = async {
            while let Some(line) = asked.recv().await {
                let asked: Value = serde_json::from_str(&line).unwrap();
                let answer = self.answer(&asked).await.unwrap_or_else(|fault| json!({"fault": fault}));
                if writeln!(answers, "{answer}").is_err() {
                    break;
                }
            }
        };
        tokio::time::timeout(LIMIT, all).await.expect("the checks took too long");
        let status = child.0.wait().unwrap();
        let log = log.join().unwrap();
        assert!(status.success(), "{}: {status}\n{log}", script.display());
    }

    /// Carries out one request of the checks.
    async fn answer(&mut self, asked: &Value) -> Result<Value, String> {
        let number = |name: &str| asked[name].as_u64().unwrap_or_default() as usize;
        let text = |name: &str| asked[name].as_str().unwrap_or_default().to_owned();
        match asked["do"].as_str().unwrap_or_default() {
            "hosts" => Ok(json!({"hosts": by_hosts(&self.lab)})),
            "open" => self.open(number("count")).await,
            "close" => self.close(number("count")).await,
            "use" => {
                let ask = Ask {
                    consumer: text("consumer"),
                    model: text("model"),
                    session: text("session"),
                    prompt: 137,
                    output: 30,
                    ..Ask::default()
                };
                for _ in 0..number("requests") {
                    let (status, body) = read(self.send(&ask).await?).await?;
                    if status != 200 || !body.contains("[DONE]") {
                        return Err(format!("{status}: {body}"));
                    }
                }
                Ok(json!({}))
            }
            "refuse" => self.refuse(&text("consumer")).await,
            "pass" => self.pass(&text("gateway"), asked).await,
            "kill" => {
                self.lab.sidecar(number("sidecar")).kill9().map_err(|e| e.to_string())?;
                Ok(json!({}))
            }
            "start" => {
                self.lab.sidecar(number("sidecar")).restart().await.map_err(|e| e.to_string())?;
                Ok(json!({}))
            }
            "store" => {
                let up = asked["up"].as_bool().unwrap_or_default();
                let redis = self.lab.redis();
                if up { redis.resume() } else { redis.pause() }.map_err(|e| e.to_string())?;
                Ok(json!({}))
            }
            other => Err(format!("nothing known of {other:?}")),
        }
    }

    /// Sends a request through the next gateway. While a sidecar is down, sends the request again through the next
    /// gateway.
    pub(super) async fn send(&mut self, ask: &Ask) -> Result<Response<Incoming>, String> {
        let start = Instant::now();
        loop {
            let gateways = self.lab.envoys();
            let url = gateways[self.sent % gateways.len()].url(Policy::EvenkeelLeastRequest);
            self.sent += 1;
            // Each request has its own connection, so that dropping the response aborts the request.
            let response = chat::client().request(ask.build(&url)).await.map_err(|e| e.to_string())?;
            if response.status() != 503 || start.elapsed() > PATIENCE {
                return Ok(response);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Opens `count` more requests and waits until the hosts have them in flight.
    async fn open(&mut self, count: usize) -> Result<Value, String> {
        let ask = Ask { model: "mock".into(), prompt: 10, output: ENDLESS, ..Ask::default() };
        for _ in 0..count {
            let response = self.send(&ask).await?;
            if response.status() != 200 {
                return Err(format!("{:?}", read(response).await?));
            }
            self.held.push(response);
        }
        self.hosts_hold(self.held.len()).await
    }

    /// Closes `count` of the open requests.
    async fn close(&mut self, count: usize) -> Result<Value, String> {
        self.held.truncate(self.held.len().saturating_sub(count));
        self.hosts_hold(self.held.len()).await
    }

    async fn hosts_hold(&self, count: usize) -> Result<Value, String> {
        let start = Instant::now();
        loop {
            let held = self.lab.mock_in_flight().iter().sum::<u64>();
            if held == count as u64 {
                return Ok(json!({}));
            }
            if start.elapsed() > PATIENCE {
                return Err(format!("the hosts have {held} in flight, not {count}"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Reports requests that passed without limits, as a worker of a gateway does.
    async fn pass(&mut self, gateway: &str, asked: &Value) -> Result<Value, String> {
        if !self.passing.contains_key(gateway) {
            let url = self.lab.sidecars()[0].grpc_url().ok_or("the sidecar has no TCP port")?;
            let worker = PassingWorker::connect(&url, gateway, self.passing.len()).await;
            self.passing.insert(gateway.to_owned(), worker.map_err(|e| e.to_string())?);
        }
        let worker = self.passing.get_mut(gateway).ok_or("no worker")?;
        let number = |name: &str| asked[name].as_u64().unwrap_or_default();
        let requests =
            UnansweredCounts { late: number("late"), unreachable: number("unreachable"), failed: 0 };
        let (since_ms, last_ms) = (number("since_ms"), number("last_ms"));
        let unanswered =
            Unanswered { period: 1, since_ms, last_ms, requests: Some(requests), reported: None };
        worker.list(unanswered).await.map_err(|e| e.to_string())?;
        Ok(json!({}))
    }

    /// Sends requests until one is refused. Returns the id of the refused request.
    async fn refuse(&mut self, consumer: &str) -> Result<Value, String> {
        for _ in 0..10 {
            let request_id = format!("page-test-{}", self.sent);
            let ask = Ask {
                consumer: consumer.to_owned(),
                model: "mock".into(),
                request_id: request_id.clone(),
                prompt: 10,
                output: 3,
                ..Ask::default()
            };
            let (status, body) = read(self.send(&ask).await?).await?;
            match status {
                200 => {}
                429 => return Ok(json!({"request_id": request_id, "status": status})),
                _ => return Err(format!("{status}: {body}")),
            }
        }
        Err("nothing was refused".into())
    }
}

/// Reads a response to its end.
pub(super) async fn read(response: Response<Incoming>) -> Result<(u16, String), String> {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
