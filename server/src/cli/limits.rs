//! `evenkeel limits`: those configured, and overrides of them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use evenkeel_proto::v1 as pb;
use serde_json::{Value, json};

use super::{
    admin::{As, Ask},
    client::answered,
    quota::counts,
    table::{Output, print_json, print_table, time},
};

/// Look at limits, and override them for one consumer or other key.
#[derive(Args)]
pub(crate) struct Limits {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the limits in force, as configured
    List(List),
    /// Set another amount of a limit for one key, or exempt it
    Override(Override),
    /// Take an override away: the configured amount applies again
    Reset(Reset),
    /// Show overrides
    Overrides(Overrides),
}

#[derive(Args)]
struct List {
    #[command(flatten)]
    ask: Ask,
}

#[derive(Args)]
struct Override {
    /// Name of the limit
    limit: String,
    /// The key, such as consumer=alice, or consumer=alice|model=m
    key: String,
    /// The amount instead of the configured one
    #[arg(long, required_unless_present = "unlimited", conflicts_with = "unlimited")]
    amount: Option<u64>,
    /// Not limited at all
    #[arg(long)]
    unlimited: bool,
    /// For how long, such as 30m, 2h or 7d; without it, until it is taken away
    #[arg(long = "for", value_name = "TIME", value_parser = humantime_serde::re::humantime::parse_duration)]
    lasts: Option<Duration>,
    #[command(flatten)]
    ask: Ask,
    #[command(flatten)]
    by: As,
}

#[derive(Args)]
struct Reset {
    /// Name of the limit
    limit: String,
    /// The key, as `overrides` shows it
    key: String,
    #[command(flatten)]
    ask: Ask,
    #[command(flatten)]
    by: As,
}

#[derive(Args)]
struct Overrides {
    /// Only this limit's
    #[arg(long, default_value = "", hide_default_value = true)]
    limit: String,
    #[command(flatten)]
    ask: Ask,
}

impl Limits {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::List(list) => list.run().await,
            Command::Override(set) => set.run().await,
            Command::Reset(reset) => reset.run().await,
            Command::Overrides(overrides) => overrides.run().await,
        }
    }
}

impl List {
    async fn run(self) -> anyhow::Result<()> {
        let answer = self.ask.client().await?.list_limits(pb::ListLimitsRequest {}).await;
        let limits = answer.map_err(answered)?.into_inner().limits;
        if self.ask.output == Output::Json {
            let limits: Vec<Value> = limits.iter().map(limit_as_json).collect();
            return Ok(print_json(&json!({"limits": limits}))?);
        }
        let row = |limit: &pb::Limit| {
            let dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
            vec![
                limit.name.clone(),
                counts(limit.counts()).to_owned(),
                algorithm(limit.algorithm()).to_owned(),
                limit.amount.to_string(),
                if limit.burst == 0 { "-".to_owned() } else { limit.burst.to_string() },
                dash(limit.per.clone()),
                if limit.key.is_empty() { "(all)".to_owned() } else { limit.key.join(", ") },
                if limit.shadow { "yes" } else { "no" }.to_owned(),
            ]
        };
        let header = ["LIMIT", "COUNTS", "ALGORITHM", "AMOUNT", "BURST", "PER", "KEY", "SHADOW"];
        Ok(print_table(&header, &limits.iter().map(row).collect::<Vec<_>>())?)
    }
}

impl Override {
    async fn run(self) -> anyhow::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let new = pb::Override {
            limit: self.limit,
            key: self.key,
            amount: self.amount.unwrap_or(0),
            unlimited: self.unlimited,
            expires_at_ms: self.lasts.map_or(0, |lasts| (now + lasts).as_millis() as u64),
            ..pb::Override::default()
        };
        let request = self.by.request(pb::SetOverrideRequest { r#override: Some(new) })?;
        let set = self.ask.client().await?.set_override(request).await.map_err(answered)?.into_inner();
        print_overrides(self.ask.output, &[set], |overrides| overrides[0].clone())
    }
}

impl Reset {
    async fn run(self) -> anyhow::Result<()> {
        let Self { limit, key, ask, by } = self;
        let request = by.request(pb::DeleteOverrideRequest { limit: limit.clone(), key: key.clone() })?;
        ask.client().await?.delete_override(request).await.map_err(answered)?;
        match ask.output {
            Output::Json => print_json(&json!({"limit": limit, "key": key}))?,
            Output::Table => print_table(&["RESET", "KEY"], &[vec![limit, key]])?,
        }
        Ok(())
    }
}

impl Overrides {
    async fn run(self) -> anyhow::Result<()> {
        let mut client = self.ask.client().await?;
        let (mut overrides, mut page_token) = (Vec::new(), String::new());
        loop {
            let limit = self.limit.clone();
            let request = pb::ListOverridesRequest { limit, page_size: 1000, page_token };
            let page = client.list_overrides(request).await.map_err(answered)?.into_inner();
            overrides.extend(page.overrides);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        print_overrides(self.ask.output, &overrides, |overrides| json!({"overrides": overrides}))
    }
}

fn print_overrides(
    output: Output,
    overrides: &[pb::Override],
    wrap: impl FnOnce(&[Value]) -> Value,
) -> anyhow::Result<()> {
    if output == Output::Json {
        let overrides: Vec<Value> = overrides.iter().map(override_as_json).collect();
        return Ok(print_json(&wrap(&overrides))?);
    }
    let row = |set: &pb::Override| {
        vec![
            set.limit.clone(),
            set.key.clone(),
            if set.unlimited { "unlimited".to_owned() } else { set.amount.to_string() },
            if set.expires_at_ms == 0 { "-".to_owned() } else { time(set.expires_at_ms) },
            set.who.clone(),
            time(set.at_ms),
        ]
    };
    let header = ["LIMIT", "KEY", "AMOUNT", "UNTIL", "WHO", "SET"];
    Ok(print_table(&header, &overrides.iter().map(row).collect::<Vec<_>>())?)
}

fn algorithm(algorithm: pb::Algorithm) -> &'static str {
    match algorithm {
        pb::Algorithm::Unspecified => "unknown",
        pb::Algorithm::FixedWindow => "fixed_window",
        pb::Algorithm::SlidingWindow => "sliding_window",
        pb::Algorithm::TokenBucket => "token_bucket",
        pb::Algorithm::Concurrency => "concurrency",
    }
}

// As the HTTP API has them.

fn override_as_json(set: &pb::Override) -> Value {
    json!({
        "limit": set.limit,
        "key": set.key,
        "amount": (!set.unlimited).then_some(set.amount),
        "unlimited": set.unlimited,
        "expires_at_ms": set.expires_at_ms,
        "who": set.who,
        "at_ms": set.at_ms,
    })
}

fn limit_as_json(limit: &pb::Limit) -> Value {
    json!({
        "name": limit.name,
        "counts": counts(limit.counts()),
        "algorithm": algorithm(limit.algorithm()),
        "amount": limit.amount,
        "burst": Some(limit.burst).filter(|burst| *burst > 0),
        "per": Some(&limit.per).filter(|per| !per.is_empty()),
        "key": limit.key,
        "shadow": limit.shadow,
    })
}
