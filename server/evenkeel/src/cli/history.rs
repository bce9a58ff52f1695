//! `evenkeel refusals`, `repairs` and `changes`: what happened lately.

use clap::Args;
use evenkeel_proto::v1 as pb;
use serde_json::{Value, json};

use super::{
    connect::Ask,
    exit::answered,
    output::{Column, Item, Output, count_or_dash, number, or_dash, put, text, time, word},
    pools::{pool_as_json, pool_text},
};

/// Show refusals.
#[derive(Args)]
pub(crate) struct Refusals {
    /// The gateway's id of a request (x-request-id): only this one, in full
    #[arg(value_name = "REQUEST-ID")]
    request_id: Option<String>,
    /// Only this consumer's
    #[arg(long, default_value = "", hide_default_value = true, conflicts_with = "request_id")]
    consumer: String,
    /// At most this many; 0 means 100
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N", conflicts_with = "request_id",
          value_parser = clap::value_parser!(u32).range(..=1000))]
    last: u32,
    #[command(flatten)]
    ask: Ask,
}

/// Show repairs.
#[derive(Args)]
pub(crate) struct Repairs {
    /// At most this many; 0 means 100
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N",
          value_parser = clap::value_parser!(u32).range(..=200))]
    last: u32,
    #[command(flatten)]
    ask: Ask,
}

/// Show what administrators changed.
#[derive(Args)]
pub(crate) struct Changes {
    /// At most this many; 0 means 100
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N",
          value_parser = clap::value_parser!(u32).range(..=1000))]
    last: u32,
    #[command(flatten)]
    ask: Ask,
}

impl Refusals {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        if let Some(request_id) = self.request_id {
            return refusal(&self.ask, request_id).await;
        }
        let request = pb::ListRefusalsRequest { consumer: self.consumer, page_size: self.last };
        let answer = self.ask.inspect().await?.list_refusals(request).await;
        self.ask.output.list(&answer.map_err(answered)?.into_inner().refusals)
    }
}

/// Tells why one request was refused.
pub(super) async fn refusal(ask: &Ask, request_id: String) -> anyhow::Result<()> {
    let request = pb::GetRefusalRequest { request_id };
    let refusal = ask.inspect().await?.get_refusal(request).await.map_err(answered)?.into_inner();
    if ask.output == Output::Table {
        return Ok(put(&in_words(&refusal))?);
    }
    ask.output.one(&refusal)
}

/// A refusal as a person wants it told: one line a fact, those that are not known left out.
fn in_words(refusal: &pb::Refusal) -> String {
    let counted = refusal.limit.is_empty();
    let numbers =
        format!("{} used of {}; the request would have taken {}", refusal.used, refusal.amount, refusal.cost);
    let again =
        if refusal.retry_after_ms == 0 { String::new() } else { format!("{} ms", refusal.retry_after_ms) };
    let facts = [
        ("request", refusal.request_id.clone()),
        ("refused at", time(refusal.at_ms)),
        ("because", refusal.why.clone()),
        ("reason", word(refusal.reason().as_str_name(), "REASON_")),
        ("answered", refusal.status.to_string()),
        ("try again in", again),
        ("pool", pool_text(refusal.pool.as_ref(), "")),
        ("consumer", refusal.consumer.clone()),
        ("model", refusal.model.clone()),
        ("limit", refusal.limit.clone()),
        ("key", refusal.key.clone()),
        ("how it stood", if counted { String::new() } else { numbers }),
        ("sidecar", refusal.sidecar.clone()),
    ];
    let told = facts.iter().filter(|(_, value)| !value.is_empty());
    told.map(|(name, value)| {
        let value: String = value.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        format!("{name:<13} {value}\n")
    })
    .collect()
}

impl Item for pb::Refusal {
    const LIST: &'static str = "refusals";
    const COLUMNS: &'static [Column] = &[
        text("at_ms", "AT"),
        text("request_id", "REQUEST"),
        number("status", "STATUS"),
        text("reason", "REASON"),
        text("consumer", "CONSUMER"),
        text("model", "MODEL"),
        text("pool.route", ""),
        text("pool.cluster", ""),
        text("", "POOL"),
        text("limit", "LIMIT"),
        text("key", ""),
        number("amount", ""),
        number("used", ""),
        number("cost", ""),
        number("retry_after_ms", ""),
        text("sidecar", ""),
        text("why", "WHY"),
    ];

    fn json(&self) -> Value {
        json!({
            "request_id": self.request_id,
            "at_ms": self.at_ms,
            "pool": pool_as_json(self.pool.as_ref()),
            "reason": word(self.reason().as_str_name(), "REASON_"),
            "why": self.why,
            "status": self.status,
            "retry_after_ms": self.retry_after_ms,
            "consumer": self.consumer,
            "model": self.model,
            "limit": self.limit,
            "key": self.key,
            "amount": self.amount,
            "used": self.used,
            "cost": self.cost,
            "sidecar": self.sidecar,
        })
    }

    fn cells(&self) -> Vec<String> {
        vec![
            time(self.at_ms),
            or_dash(&self.request_id),
            count_or_dash(self.status.into()),
            word(self.reason().as_str_name(), "REASON_"),
            or_dash(&self.consumer),
            or_dash(&self.model),
            pool_text(self.pool.as_ref(), "-"),
            or_dash(&self.limit),
            self.why.clone(),
        ]
    }
}

impl Repairs {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let request = pb::ListRepairsRequest { page_size: self.last };
        let answer = self.ask.inspect().await?.list_repairs(request).await;
        self.ask.output.list(&answer.map_err(answered)?.into_inner().repairs)
    }
}

impl Item for pb::Repair {
    const LIST: &'static str = "repairs";
    const COLUMNS: &'static [Column] = &[
        text("at_ms", "AT"),
        text("kind", "KIND"),
        number("count", "COUNT"),
        text("pool.route", ""),
        text("pool.cluster", ""),
        text("", "POOL"),
        text("holder", "HOLDER"),
        text("sidecar", "SIDECAR"),
    ];

    fn json(&self) -> Value {
        json!({
            "at_ms": self.at_ms,
            "kind": self.kind,
            "pool": pool_as_json(self.pool.as_ref()),
            "holder": self.holder,
            "count": self.count,
            "sidecar": self.sidecar,
        })
    }

    fn cells(&self) -> Vec<String> {
        vec![
            time(self.at_ms),
            self.kind.clone(),
            self.count.to_string(),
            pool_text(self.pool.as_ref(), "-"),
            or_dash(&self.holder),
            or_dash(&self.sidecar),
        ]
    }
}

impl Changes {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let request = pb::ListChangesRequest { page_size: self.last };
        let answer = self.ask.admin().await?.list_changes(request).await;
        self.ask.output.list(&answer.map_err(answered)?.into_inner().changes)
    }
}

impl Item for pb::AdminChange {
    const LIST: &'static str = "changes";
    const COLUMNS: &'static [Column] = &[
        text("at_ms", "AT"),
        text("who", "WHO"),
        text("what", "CHANGE"),
        text("target", "OF"),
        text("before", "BEFORE"),
        text("after", "AFTER"),
        text("note", "NOTE"),
    ];

    fn json(&self) -> Value {
        let Self { at_ms, who, what, target, before, after, note } = self;
        json!({"at_ms": at_ms, "who": who, "what": what, "target": target, "before": before, "after": after,
               "note": note})
    }

    fn cells(&self) -> Vec<String> {
        vec![
            time(self.at_ms),
            self.who.clone(),
            self.what.clone(),
            self.target.clone(),
            or_dash(&self.before),
            or_dash(&self.after),
            self.note.clone(),
        ]
    }
}
