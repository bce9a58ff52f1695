//! `evenkeel explain`: which limits apply to a request, and why or why not.

use std::{
    collections::HashMap,
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::Context as _;
use clap::Args;
use evenkeel::{
    config::Config,
    domain::limit::{Condition, Facts, Key},
};
use evenkeel_proto::v1 as pb;
use serde_json::{Value, json};

use super::{
    admin::Ask,
    client::{OutputClosed, answered},
    table::{Output, length, print_json, print_table},
};

/// Tell which limits and quotas apply to a request, how they stand, and what would refuse it. Takes nothing.
#[derive(Args)]
pub(crate) struct Explain {
    /// The authenticated consumer
    #[arg(long, default_value = "", hide_default_value = true)]
    consumer: String,
    /// The model asked for
    #[arg(long, default_value = "", hide_default_value = true)]
    model: String,
    /// The gateway's route
    #[arg(long, default_value = "", hide_default_value = true)]
    route: String,
    /// The gateway's cluster
    #[arg(long, default_value = "", hide_default_value = true)]
    cluster: String,
    /// Path of the request, with its query
    #[arg(long, default_value = "", hide_default_value = true)]
    path: String,
    /// Address of the client
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<std::net::IpAddr>,
    /// A request header; repeat for more
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = pair)]
    headers: Vec<(String, String)>,
    /// What else the gateway tells of the request; repeat for more
    #[arg(long = "descriptor", value_name = "NAME=VALUE", value_parser = pair)]
    descriptors: Vec<(String, String)>,
    /// Size of the prompt in bytes
    #[arg(long, default_value_t = 0, value_name = "BYTES")]
    prompt_bytes: u64,
    /// Output tokens the request allows (max_tokens)
    #[arg(long, default_value_t = 0, value_name = "TOKENS")]
    max_tokens: u64,
    /// Ask this configuration instead of a sidecar: tells what applies, without counters
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    ask: Ask,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
    pair.map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or("expected NAME=VALUE".to_owned())
}

impl Explain {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match &self.config {
            Some(path) => {
                let config = Config::load(path).with_context(|| path.display().to_string())?;
                self.offline(&config)
            }
            None => self.online().await,
        }
    }

    fn headers(&self) -> HashMap<String, String> {
        self.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect()
    }

    async fn online(&self) -> anyhow::Result<()> {
        let subject = pb::Subject {
            consumer: self.consumer.clone(),
            source_ip: self.ip.map(|ip| ip.to_string()).unwrap_or_default(),
            path: self.path.clone(),
            headers: self.headers(),
            descriptors: self.descriptors.iter().cloned().collect(),
        };
        let request = pb::AdmitRequest {
            pool: Some(pb::Pool { route: self.route.clone(), cluster: self.cluster.clone() }),
            subject: Some(subject),
            model: self.model.clone(),
            prompt_bytes: self.prompt_bytes,
            max_output_tokens: self.max_tokens,
            ..pb::AdmitRequest::default()
        };
        let request = pb::ExplainRequest { request: Some(request) };
        let answer = self.ask.client().await?.explain(request).await.map_err(answered)?.into_inner();
        if self.ask.output == Output::Json {
            return Ok(print_json(&as_json(&answer))?);
        }
        let header = [
            "LIMIT",
            "KIND",
            "APPLIES",
            "KEY",
            "AMOUNT",
            "USED",
            "RESERVED",
            "COST",
            "RESETS-IN",
            "REFUSES",
            "WHY",
        ];
        print_table(&header, &answer.limits.iter().map(row).collect::<Vec<_>>())?;
        let estimate = answer.estimate.unwrap_or_default();
        say(&format!("\nestimate: {} input and {} output tokens", estimate.input, estimate.output))?;
        say(if answer.admitted { "the request would be admitted" } else { "the request would be refused" })?;
        Ok(())
    }

    /// What applies by the configuration alone.
    fn offline(&self, config: &Config) -> anyhow::Result<()> {
        let facts = Facts {
            consumer: self.consumer.clone(),
            source_ip: self.ip,
            path: self.path.clone(),
            headers: self.headers(),
            model: self.model.clone(),
            route: self.route.clone(),
            cluster: self.cluster.clone(),
            descriptors: self.descriptors.iter().cloned().collect(),
        };
        let consumer = Key::new(vec![evenkeel::domain::limit::Attribute::Consumer]);
        let limits = config.rules.limits.iter().map(|limit| {
            let exception = limit.exceptions.iter().find(|e| e.when.iter().all(|c| c.holds(&facts)));
            let amount = exception.map_or(Some(limit.amount), |exception| exception.amount);
            (&limit.name, "limit", judge(&facts, &limit.key, &limit.name, &limit.when), amount)
        });
        let quotas = config.rules.quotas.iter().map(|quota| {
            let amount = Some(quota.default.unwrap_or(0));
            (&quota.name, "quota", judge(&facts, &consumer, &quota.name, &quota.when), amount)
        });
        let all: Vec<_> = limits.chain(quotas).collect();
        if self.ask.output == Output::Json {
            let limits: Vec<Value> = all
                .iter()
                .map(|(name, kind, judged, amount)| {
                    let (key, why) = judged.as_ref().map_or_else(|why| ("", why.as_str()), |(k, w)| (k, w));
                    let applies = judged.is_ok();
                    json!({"name": ***name, "kind": kind, "applies": applies, "key": key, "amount": amount, "why": why})
                })
                .collect();
            return Ok(print_json(&json!({"limits": limits}))?);
        }
        let rows: Vec<Vec<String>> = all
            .into_iter()
            .map(|(name, kind, judged, amount)| {
                let (applies, amount) =
                    (judged.is_ok(), amount.map_or_else(|| "unlimited".to_owned(), |n| n.to_string()));
                let (key, why) = judged.unwrap_or_else(|why| ("-".to_owned(), why));
                let amount = if applies { amount } else { "-".to_owned() };
                vec![name.to_string(), kind.to_owned(), yes(applies), key, amount, why]
            })
            .collect();
        Ok(print_table(&["LIMIT", "KIND", "APPLIES", "KEY", "AMOUNT", "WHY"], &rows)?)
    }
}

/// The key where it applies, and why; why not where it does not.
fn judge(facts: &Facts, key: &Key, name: &str, when: &[Condition]) -> Result<(String, String), String> {
    if let Some(unmet) = when.iter().find(|condition| !condition.holds(facts)) {
        return Err(format!("not {unmet}"));
    }
    let Some(bucket) = key.bucket(facts, name) else {
        let lacking = key.attributes().iter().find(|attribute| attribute.value(facts).is_none());
        return Err(lacking.map_or_else(String::new, |attribute| format!("the request has no {attribute}")));
    };
    let met: Vec<String> = when.iter().map(ToString::to_string).collect();
    Ok((bucket.to_string(), if met.is_empty() { "always".to_owned() } else { met.join(", ") }))
}

fn row(limit: &pb::Explanation) -> Vec<String> {
    let number = |n: u64| if limit.applies { n.to_string() } else { "-".to_owned() };
    let refuses = match (limit.refuses, limit.shadow) {
        (true, true) => "no (shadow)".to_owned(),
        (refuses, _) => yes(refuses),
    };
    vec![
        limit.name.clone(),
        if limit.quota { "quota" } else { "limit" }.to_owned(),
        yes(limit.applies),
        if limit.key.is_empty() { "-".to_owned() } else { limit.key.clone() },
        number(limit.amount),
        number(limit.used),
        number(limit.reserved),
        number(limit.cost),
        length(limit.reset_ms),
        if limit.applies { refuses } else { "-".to_owned() },
        limit.why.clone(),
    ]
}

fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}

fn as_json(answer: &pb::ExplainResponse) -> Value {
    let limits = answer.limits.iter().map(|limit| {
        json!({
            "name": limit.name,
            "kind": if limit.quota { "quota" } else { "limit" },
            "applies": limit.applies,
            "why": limit.why,
            "key": limit.key,
            "amount": limit.amount,
            "used": limit.used,
            "reserved": limit.reserved,
            "cost": limit.cost,
            "refuses": limit.refuses,
            "reset_ms": limit.reset_ms,
            "shadow": limit.shadow,
        })
    });
    let estimate = answer.estimate.unwrap_or_default();
    json!({
        "admitted": answer.admitted,
        "estimate": {"input": estimate.input, "output": estimate.output},
        "limits": limits.collect::<Vec<_>>(),
    })
}

fn say(line: &str) -> Result<(), OutputClosed> {
    writeln!(io::stdout(), "{line}").map_err(|_| OutputClosed)
}
