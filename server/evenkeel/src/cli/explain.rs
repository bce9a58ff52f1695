//! `evenkeel explain`: shows which limits apply to a request, and why or why not.

use std::{collections::HashMap, path::PathBuf};

use anyhow::Context as _;
use clap::Args;
use evenkeel_config::Config;
use evenkeel_domain::{
    NAME_BYTES_MAX,
    limit::{Attributes, Condition, Key},
    shorten,
};
use evenkeel_proto::v1::{self as pb, RuleKind};
use serde::Serialize;
use serde_json::json;

use super::{
    connect::Ask,
    exit::failed,
    history::refusal,
    output::{Column, Item, Output, csv_only, duration, number, or_dash, put, text, word, yes},
};

/// Show which limits and quotas apply to a request, their state, and what would refuse it. Reserves nothing.
#[derive(Args)]
pub(crate) struct Explain {
    /// The authenticated consumer
    #[arg(long, default_value = "", hide_default_value = true)]
    consumer: String,
    /// The requested model
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
    /// Another attribute that the gateway sends with the request; repeat for more
    #[arg(long = "descriptor", value_name = "NAME=VALUE", value_parser = pair)]
    descriptors: Vec<(String, String)>,
    /// Size of the prompt in bytes
    #[arg(long, default_value_t = 0, value_name = "BYTES")]
    prompt_bytes: u64,
    /// Maximum number of output tokens that the request sets (max_tokens)
    #[arg(long, default_value_t = 0, value_name = "TOKENS")]
    max_tokens: u64,
    /// Number of answers that the request asks for (n)
    #[arg(long, default_value_t = 1, value_name = "N")]
    choices: u64,
    /// Read this configuration file instead of asking a sidecar. Shows which limits apply, without their usage
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Explain only the refusal of the request with this id (x-request-id)
    #[arg(long, value_name = "ID", conflicts_with_all = ["consumer", "model", "route", "cluster", "path",
          "ip", "headers", "descriptors", "prompt_bytes", "max_tokens", "choices", "config"])]
    request_id: Option<String>,
    #[command(flatten)]
    ask: Ask,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
    pair.map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or("expected NAME=VALUE".to_owned())
}

impl Explain {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        if let Some(request_id) = self.request_id {
            return refusal(&self.ask, request_id).await;
        }
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
            choices: self.choices,
            ..pb::AdmitRequest::default()
        };
        let request = pb::ExplainRequest { request: Some(request) };
        let answer = self.ask.admin().await?.explain(request).await;
        let answer = answer.map_err(failed("explain the request"))?.into_inner();
        self.ask.output.list(&answer.limits, &answer)?;
        if self.ask.output == Output::Table {
            let estimate = answer.estimate.unwrap_or_default();
            let would = if answer.admitted { "admitted" } else { "refused" };
            put(&format!(
                "\nestimate: {} input and {} output tokens\nthe request would be {would}\n",
                estimate.input, estimate.output
            ))?;
        }
        Ok(())
    }

    /// Prints which limits apply, from the configuration file alone.
    fn offline(&self, config: &Config) -> anyhow::Result<()> {
        let facts = Attributes {
            consumer: shorten(&self.consumer, NAME_BYTES_MAX).into_owned(),
            source_ip: self.ip,
            path: self.path.clone(),
            headers: self.headers(),
            model: shorten(&self.model, NAME_BYTES_MAX).into_owned(),
            route: self.route.clone(),
            cluster: self.cluster.clone(),
            descriptors: self.descriptors.iter().cloned().collect(),
        };
        let consumer = Key::new(vec![evenkeel_domain::limit::Attribute::Consumer]);
        let limits = config.rules.limits.iter().map(|limit| {
            let exception = limit.exceptions.iter().find(|e| e.when.iter().all(|c| c.holds(&facts)));
            let amount = exception.map_or(Some(limit.amount), |exception| exception.amount);
            (&limit.name, "limit", evaluate(&facts, &limit.key, &limit.name, &limit.when), amount)
        });
        let quotas = config.rules.quotas.iter().map(|quota| {
            let amount = Some(quota.default.unwrap_or(0));
            (&quota.name, "quota", evaluate(&facts, &consumer, &quota.name, &quota.when), amount)
        });
        let all = limits.chain(quotas).map(|(name, kind, verdict, amount)| {
            let applies = verdict.is_ok();
            let (key, why) = verdict.unwrap_or_else(|why| (String::new(), why));
            Rule { name: name.to_string(), kind, applies, key, amount, why }
        });
        let rules: Vec<Rule> = all.collect();
        self.ask.output.list(&rules, &json!({"limits": rules}))
    }
}

/// A configured limit or quota, and whether it applies to the request.
#[derive(Serialize)]
struct Rule {
    name: String,
    kind: &'static str,
    applies: bool,
    key: String,
    amount: Option<u64>,
    why: String,
}

impl Rule {
    fn amount(&self) -> String {
        let amount = self.amount.map_or_else(|| "unlimited".to_owned(), |n| n.to_string());
        if self.applies { amount } else { "-".to_owned() }
    }
}

impl Item for Rule {
    const COLUMNS: &'static [Column<Self>] = &[
        text("name", "LIMIT", |r| r.name.clone()),
        text("kind", "KIND", |r| r.kind.to_owned()),
        text("applies", "APPLIES", |r| yes(r.applies)),
        text("key", "KEY", |r| or_dash(&r.key)),
        number("amount", "AMOUNT", Rule::amount),
        text("why", "WHY", |r| r.why.clone()),
    ];
}

/// Returns the key and the reason if the limit applies. Otherwise the error is the reason why it does not apply.
fn evaluate(
    facts: &Attributes,
    key: &Key,
    name: &str,
    when: &[Condition],
) -> Result<(String, String), String> {
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

/// Formats a number; `-` if the limit does not apply.
fn figure(of: &pb::Explanation, n: u64) -> String {
    if of.applies { n.to_string() } else { "-".to_owned() }
}

fn refuses(of: &pb::Explanation) -> String {
    match (of.applies, of.refuses, of.shadow) {
        (false, _, _) => "-".to_owned(),
        (true, true, true) => "no (shadow)".to_owned(),
        (true, refuses, _) => yes(refuses),
    }
}

impl Item for pb::Explanation {
    const COLUMNS: &'static [Column<Self>] = &[
        text("name", "LIMIT", |e| e.name.clone()),
        text("kind", "KIND", |e| word::<RuleKind>(e.kind)),
        text("applies", "APPLIES", |e| yes(e.applies)),
        text("key", "KEY", |e| or_dash(&e.key)),
        number("amount", "AMOUNT", |e| figure(e, e.amount)),
        number("used", "USED", |e| figure(e, e.used)),
        number("reserved", "RESERVED", |e| figure(e, e.reserved)),
        number("cost", "COST", |e| figure(e, e.cost)),
        number("reset_ms", "RESETS-IN", |e| duration(e.reset_ms)),
        text("refuses", "REFUSES", refuses),
        csv_only("shadow"),
        text("why", "WHY", |e| e.why.clone()),
    ];
}
