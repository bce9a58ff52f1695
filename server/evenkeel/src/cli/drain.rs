//! `evenkeel drain`, `undrain` and `drains`: endpoints that get no new requests.

use clap::Args;
use evenkeel_proto::v1 as pb;
use serde_json::{Value, json};

use super::{
    connect::{As, Ask, OnlyPool},
    exit::answered,
    output::{Column, Item, or_dash, text, time},
    pools::{pool_as_json, pool_text},
};

/// Shown where an endpoint is drained wherever it is.
const EVERY_POOL: &str = "(every pool)";

/// Drain an endpoint.
#[derive(Args)]
pub(crate) struct Drain {
    /// Its address, as `evenkeel pools` shows it
    endpoint: String,
    #[command(flatten)]
    pool: OnlyPool,
    /// Why: shown beside it and kept in the history; at most 256 bytes
    #[arg(long, default_value = "", hide_default_value = true)]
    note: String,
    #[command(flatten)]
    ask: Ask,
    #[command(flatten)]
    by: As,
}

/// Give an endpoint requests again.
#[derive(Args)]
pub(crate) struct Undrain {
    /// Its address, as `evenkeel drains` shows it
    endpoint: String,
    #[command(flatten)]
    pool: OnlyPool,
    #[command(flatten)]
    ask: Ask,
    #[command(flatten)]
    by: As,
}

/// Show endpoints drained.
#[derive(Args)]
pub(crate) struct Drains {
    #[command(flatten)]
    ask: Ask,
}

impl Drain {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let Self { endpoint, pool, note, ask, by } = self;
        let request = by.request(pb::DrainEndpointRequest { endpoint, pool: pool.encode(), note })?;
        let drain = ask.admin().await?.drain_endpoint(request).await.map_err(answered)?.into_inner();
        ask.output.one(&drain)
    }
}

impl Undrain {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let Self { endpoint, pool, ask, by } = self;
        let pool = pool.encode();
        let request =
            by.request(pb::UndrainEndpointRequest { endpoint: endpoint.clone(), pool: pool.clone() })?;
        ask.admin().await?.undrain_endpoint(request).await.map_err(answered)?;
        ask.output.one(&Undrained { endpoint, pool })
    }
}

impl Drains {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let answer = self.ask.admin().await?.list_drains(pb::ListDrainsRequest {}).await;
        self.ask.output.list(&answer.map_err(answered)?.into_inner().drains)
    }
}

impl Item for pb::Drain {
    const LIST: &'static str = "drains";
    const COLUMNS: &'static [Column] = &[
        text("endpoint", "ENDPOINT"),
        text("pool.route", ""),
        text("pool.cluster", ""),
        text("", "POOL"),
        text("at_ms", "SINCE"),
        text("who", "WHO"),
        text("note", "NOTE"),
    ];

    fn json(&self) -> Value {
        json!({
            "endpoint": self.endpoint,
            "pool": pool_as_json(self.pool.as_ref()),
            "note": self.note,
            "who": self.who,
            "at_ms": self.at_ms,
        })
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.endpoint.clone(),
            pool_text(self.pool.as_ref(), EVERY_POOL),
            time(self.at_ms),
            or_dash(&self.who),
            self.note.clone(),
        ]
    }
}

/// An endpoint that is drained no more.
struct Undrained {
    endpoint: String,
    pool: Option<pb::Pool>,
}

impl Item for Undrained {
    const LIST: &'static str = "undrained";
    const COLUMNS: &'static [Column] =
        &[text("undrained", "UNDRAINED"), text("pool.route", ""), text("pool.cluster", ""), text("", "POOL")];

    fn json(&self) -> Value {
        json!({"undrained": self.endpoint, "pool": pool_as_json(self.pool.as_ref())})
    }

    fn cells(&self) -> Vec<String> {
        vec![self.endpoint.clone(), pool_text(self.pool.as_ref(), EVERY_POOL)]
    }
}
