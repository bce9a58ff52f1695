//! `evenkeel activity`: what became of requests, over time.

use std::time::Duration;

use clap::Args;
use evenkeel_proto::v1 as pb;
use humantime_serde::re::humantime::parse_duration;
use serde_json::{Value, json};

use super::{
    connect::{Ask, OnlyPool},
    exit::answered,
    output::{Column, Item, number, text, time},
};

/// Show what became of requests.
#[derive(Args)]
pub(crate) struct Activity {
    /// How far back, such as 15m or 6h; at most 48h. Up to 1h is told in steps of 10 s, more in steps of 5 minutes
    #[arg(long, default_value = "15m", value_parser = parse_duration, value_name = "TIME")]
    span: Duration,
    #[command(flatten)]
    pool: OnlyPool,
    #[command(flatten)]
    ask: Ask,
}

impl Activity {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let request =
            pb::GetActivityRequest { pool: self.pool.encode(), span_ms: self.span.as_millis() as u64 };
        let answer = self.ask.inspect().await?.get_activity(request).await.map_err(answered)?.into_inner();
        self.ask.output.print(&answer.steps, || as_json(&answer))
    }
}

/// The outcomes, by their names in the HTTP API.
fn series(step: &pb::ActivityStep) -> [(&'static str, u64); 8] {
    [
        ("shared", step.shared),
        ("local", step.local),
        ("open", step.open),
        ("pool_full", step.pool_full),
        ("no_endpoints", step.no_endpoints),
        ("limit", step.limit),
        ("quota", step.quota),
        ("store_unavailable", step.store_unavailable),
    ]
}

/// Admitted and refused in one step.
pub(super) fn sums(step: &pb::ActivityStep) -> (u64, u64) {
    let [admitted @ .., _, _, _, _, _] = series(step);
    let [_, _, _, refused @ ..] = series(step);
    (admitted.iter().map(|(_, n)| n).sum(), refused.iter().map(|(_, n)| n).sum())
}

/// As the HTTP API has it: one list an outcome.
fn as_json(answer: &pb::GetActivityResponse) -> Value {
    let mut lists = serde_json::Map::new();
    for (name, _) in series(&pb::ActivityStep::default()) {
        lists.insert(name.to_owned(), json!([]));
    }
    for step in &answer.steps {
        for (name, n) in series(step) {
            if let Some(Value::Array(list)) = lists.get_mut(name) {
                list.push(json!(n));
            }
        }
    }
    json!({
        "step_ms": answer.step_ms,
        "from_ms": answer.steps.first().map(|step| step.at_ms),
        "steps": answer.steps.len(),
        "series": lists,
    })
}

impl Item for pb::ActivityStep {
    const LIST: &'static str = "steps";
    const COLUMNS: &'static [Column] = &[
        text("at_ms", "FROM"),
        number("shared", "SHARED"),
        number("local", "LOCAL"),
        number("open", "OPEN"),
        number("pool_full", "POOL-FULL"),
        number("no_endpoints", "NO-ENDPOINTS"),
        number("limit", "LIMIT"),
        number("quota", "QUOTA"),
        number("store_unavailable", "STORE-AWAY"),
    ];

    fn json(&self) -> Value {
        let mut step = json!({"at_ms": self.at_ms});
        for (name, n) in series(self) {
            step[name] = json!(n);
        }
        step
    }

    fn cells(&self) -> Vec<String> {
        std::iter::once(time(self.at_ms)).chain(series(self).map(|(_, n)| n.to_string())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_is_admitted_or_refused() {
        let step = pb::ActivityStep {
            at_ms: 10_000,
            shared: 1,
            local: 2,
            open: 4,
            pool_full: 8,
            no_endpoints: 16,
            limit: 32,
            quota: 64,
            store_unavailable: 128,
        };
        assert_eq!(sums(&step), (7, 248));
        let json = as_json(&pb::GetActivityResponse { step_ms: 10_000, steps: vec![step, step] });
        assert_eq!((&json["series"]["limit"], &json["steps"]), (&json!([32, 32]), &json!(2)));
        assert_eq!(step.cells().len(), pb::ActivityStep::COLUMNS.len());
    }
}
