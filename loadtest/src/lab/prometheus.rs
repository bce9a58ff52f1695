//! A Prometheus of one's own: a free port, its data in the lab's directory, a scrape and an evaluation each second.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{LabError, Process, paths, ports, wait};

const READY_WITHIN: Duration = Duration::from_secs(30);

/// One `prometheus`.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    port: u16,
}

/// One series of an answer, with its value now.
#[derive(Clone, Debug, Deserialize)]
pub struct Sample {
    /// Its labels, `__name__` among them where there is one.
    pub metric: BTreeMap<String, String>,
    /// Its time in seconds, and its value as Prometheus writes it.
    value: (f64, String),
}

impl Sample {
    /// Its value; NaN where it is none.
    pub fn value(&self) -> f64 {
        self.value.1.parse().unwrap_or(f64::NAN)
    }
}

impl Prometheus {
    /// Starts one that scrapes these addresses as `job`, with a label `namespace` as Kubernetes has, and evaluates
    /// these files of rules.
    pub async fn start(
        dir: &Path,
        job: &str,
        targets: &[String],
        rules: &[PathBuf],
    ) -> Result<Self, LabError> {
        let program = paths::prometheus()?;
        let (port, config, data) = (ports::free_port()?, dir.join("prometheus.json"), dir.join("prometheus"));
        // JSON is YAML.
        let text = json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": rules,
            "scrape_configs": [{
                "job_name": job,
                "static_configs": [{"targets": targets, "labels": {"namespace": "lab"}}],
            }],
        });
        fs::write(&config, text.to_string())
            .map_err(LabError::io(format!("writing {}", config.display())))?;
        let process = Process::new("prometheus", program, dir)
            .args([format!("--config.file={}", config.display())])
            .args([format!("--storage.tsdb.path={}", data.display())])
            .args([format!("--web.listen-address=127.0.0.1:{port}"), "--log.level=warn".to_owned()]);
        let mut prometheus = Self { process, port };
        prometheus.process.spawn()?;
        let url = prometheus.url("/-/ready");
        let ready = async || wait::get(&url).await.is_some_and(|(status, _)| status.is_success());
        prometheus.process.wait_ready(READY_WITHIN, ready).await?;
        Ok(prometheus)
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// What an expression yields now.
    pub async fn query(&self, expression: &str) -> Result<Vec<Sample>, LabError> {
        let data = self.data(&format!("/api/v1/query?query={}", encoded(expression))).await?;
        serde_json::from_value(data["result"].clone())
            .map_err(|fault| LabError::Answer { what: format!("{expression}: {fault}: {data}") })
    }

    /// Groups of rules, as they were last evaluated.
    pub async fn rules(&self) -> Result<Value, LabError> {
        self.data("/api/v1/rules").await
    }

    async fn data(&self, path: &str) -> Result<Value, LabError> {
        let url = self.url(path);
        let (status, body) =
            wait::get(&url).await.ok_or_else(|| LabError::Answer { what: format!("{url}: no answer") })?;
        let answer: Value = serde_json::from_str(&body).unwrap_or_default();
        if status.is_success() && answer["status"] == "success" {
            return Ok(answer["data"].clone());
        }
        Err(LabError::Answer { what: format!("{url}: {status}: {body}") })
    }
}

/// A value of a query string.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}
