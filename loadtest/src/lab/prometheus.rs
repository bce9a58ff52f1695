//! A Prometheus process on a free port, with its data in the lab's directory. It scrapes targets and evaluates rules
//! every second.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{LabError, Process, paths, ports, probe};

const READY_WITHIN: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    port: u16,
}

/// One series of an instant query's result.
#[derive(Clone, Debug, Deserialize)]
pub struct Series {
    /// Labels, including `__name__` if the series has one.
    pub metric: BTreeMap<String, String>,
    /// Time in seconds, and the value as text in Prometheus's format.
    value: (f64, String),
}

impl Series {
    /// Returns the value; NaN if it is not a number.
    pub fn value(&self) -> f64 {
        self.value.1.parse().unwrap_or(f64::NAN)
    }
}

impl Prometheus {
    /// Starts a Prometheus that scrapes `targets` as `job` and evaluates the rule files. Targets get a `namespace`
    /// label, as in Kubernetes.
    pub async fn start(
        dir: &Path,
        job: &str,
        targets: &[String],
        rules: &[PathBuf],
    ) -> Result<Self, LabError> {
        let program = paths::prometheus()?;
        let (port, config, data) = (ports::free_port()?, dir.join("prometheus.json"), dir.join("prometheus"));
        // Prometheus expects YAML, and every JSON text is YAML.
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
        prometheus.process.wait_ready(READY_WITHIN, async || probe::succeeds(&url).await).await?;
        Ok(prometheus)
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Evaluates an expression at the current time.
    pub async fn query(&self, expression: &str) -> Result<Vec<Series>, LabError> {
        let query: String = form_urlencoded::byte_serialize(expression.as_bytes()).collect();
        let data = self.data(&format!("/api/v1/query?query={query}")).await?;
        serde_json::from_value(data["result"].clone())
            .map_err(|error| LabError::Response { what: format!("{expression}: {error}: {data}") })
    }

    /// Returns the rule groups with the results of their last evaluation.
    pub async fn rules(&self) -> Result<Value, LabError> {
        self.data("/api/v1/rules").await
    }

    async fn data(&self, path: &str) -> Result<Value, LabError> {
        let url = self.url(path);
        let (status, body) = probe::get(&url)
            .await
            .ok_or_else(|| LabError::Response { what: format!("{url}: no response") })?;
        let response: Value = serde_json::from_str(&body).unwrap_or_default();
        if status.is_success() && response["status"] == "success" {
            return Ok(response["data"].clone());
        }
        Err(LabError::Response { what: format!("{url}: {status}: {body}") })
    }
}
