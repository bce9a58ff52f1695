//! `evenkeel limits`: those configured, and overrides of them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use evenkeel_proto::v1 as pb;
use serde_json::{Value, json};

use super::{
    amount::{OF_COST, amount, unit},
    connect::{As, Ask},
    exit::answered,
    output::{Column, Item, count_or_dash, number, or_dash, text, time, yes},
    quota::{counts, counts_if_known},
};

/// Look at limits, and override them for one consumer or other key.
#[derive(Args)]
#[command(after_help = OF_COST)]
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
    /// Show the keys with least left, of those requests have lately been counted in
    Nearest(Nearest),
}

#[derive(Args)]
#[command(after_help = OF_COST)]
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
    /// The amount instead of the configured one, such as 10000, 100k or 1.5M; of cost, in millionths of the currency:
    /// 2.5M for 2.50
    #[arg(long, required_unless_present = "unlimited", conflicts_with = "unlimited", value_name = "N", value_parser = amount)]
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
#[command(after_help = OF_COST)]
struct Overrides {
    /// Only this limit's
    #[arg(long, default_value = "", hide_default_value = true)]
    limit: String,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Args)]
#[command(after_help = OF_COST)]
struct Nearest {
    /// Only this limit's
    #[arg(long, default_value = "", hide_default_value = true)]
    limit: String,
    /// Only keys that contain this
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    search: String,
    /// At most this many
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    top: u32,
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
            Command::Nearest(nearest) => nearest.run().await,
        }
    }
}

impl List {
    async fn run(self) -> anyhow::Result<()> {
        let answer = self.ask.admin().await?.list_limits(pb::ListLimitsRequest {}).await;
        self.ask.output.list(&answer.map_err(answered)?.into_inner().limits)
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
        let set = self.ask.admin().await?.set_override(request).await.map_err(answered)?.into_inner();
        self.ask.output.one(&set)
    }
}

impl Reset {
    async fn run(self) -> anyhow::Result<()> {
        let Self { limit, key, ask, by } = self;
        let request = by.request(pb::DeleteOverrideRequest { limit: limit.clone(), key: key.clone() })?;
        ask.admin().await?.delete_override(request).await.map_err(answered)?;
        ask.output.one(&Removed { limit, key })
    }
}

impl Overrides {
    async fn run(self) -> anyhow::Result<()> {
        let mut client = self.ask.admin().await?;
        let (mut overrides, mut page_token) = (Vec::new(), String::new());
        loop {
            let limit = self.limit.clone();
            let request = pb::ListOverridesRequest { limit, page_size: 1000, page_token };
            let page = client.list_overrides(request).await.map_err(answered)?.into_inner();
            overrides.extend(page.overrides);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return self.ask.output.list(&overrides);
            }
        }
    }
}

impl Nearest {
    async fn run(self) -> anyhow::Result<()> {
        let Self { limit, search, top, ask } = self;
        let request =
            pb::ListNearestLimitsRequest { limit, search, page_size: top, page_token: String::new() };
        let answer = ask.inspect().await?.list_nearest_limits(request).await.map_err(answered)?.into_inner();
        let limits = || answer.limits.iter().map(Item::json).collect::<Vec<_>>();
        ask.output.print(&answer.limits, || json!({"limits": limits(), "total": answer.total}))
    }
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

impl Item for pb::Limit {
    const LIST: &'static str = "limits";
    const COLUMNS: &'static [Column] = &[
        text("name", "LIMIT"),
        text("counts", "COUNTS"),
        text("algorithm", "ALGORITHM"),
        number("amount", "AMOUNT"),
        number("burst", "BURST"),
        text("per", "PER"),
        text("key", "KEY"),
        text("shadow", "SHADOW"),
    ];

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "counts": counts(self.counts()),
            "algorithm": algorithm(self.algorithm()),
            "amount": self.amount,
            "burst": Some(self.burst).filter(|burst| *burst > 0),
            "per": Some(&self.per).filter(|per| !per.is_empty()),
            "key": self.key,
            "shadow": self.shadow,
        })
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            unit(self.counts()).to_owned(),
            algorithm(self.algorithm()).to_owned(),
            self.amount.to_string(),
            count_or_dash(self.burst),
            or_dash(&self.per),
            if self.key.is_empty() { "(all)".to_owned() } else { self.key.join(", ") },
            yes(self.shadow),
        ]
    }
}

impl Item for pb::Override {
    const LIST: &'static str = "overrides";
    const COLUMNS: &'static [Column] = &[
        text("limit", "LIMIT"),
        text("key", "KEY"),
        number("amount", "AMOUNT"),
        text("unlimited", ""),
        text("expires_at_ms", "UNTIL"),
        text("who", "WHO"),
        text("at_ms", "SET"),
    ];

    fn json(&self) -> Value {
        json!({
            "limit": self.limit,
            "key": self.key,
            "amount": (!self.unlimited).then_some(self.amount),
            "unlimited": self.unlimited,
            "expires_at_ms": self.expires_at_ms,
            "who": self.who,
            "at_ms": self.at_ms,
        })
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.limit.clone(),
            self.key.clone(),
            if self.unlimited { "unlimited".to_owned() } else { self.amount.to_string() },
            time(self.expires_at_ms),
            self.who.clone(),
            time(self.at_ms),
        ]
    }
}

/// An override that is no more.
struct Removed {
    limit: String,
    key: String,
}

impl Item for Removed {
    const LIST: &'static str = "reset";
    const COLUMNS: &'static [Column] = &[text("limit", "RESET"), text("key", "KEY")];

    fn json(&self) -> Value {
        json!({"limit": self.limit, "key": self.key})
    }

    fn cells(&self) -> Vec<String> {
        vec![self.limit.clone(), self.key.clone()]
    }
}

impl Item for pb::NearestLimit {
    const LIST: &'static str = "limits";
    const COLUMNS: &'static [Column] = &[
        text("limit", "LIMIT"),
        text("key", "KEY"),
        number("used", "USED"),
        number("amount", "AMOUNT"),
        number("share", "SHARE"),
        text("reset_at_ms", "ROOM-AT"),
        text("shadow", "SHADOW"),
        text("seen_at_ms", "SEEN"),
        text("counts", "COUNTS"),
    ];

    fn json(&self) -> Value {
        json!({
            "limit": self.limit,
            "key": self.key,
            "amount": self.amount,
            "used": self.used,
            "share": self.share,
            "reset_at_ms": self.reset_at_ms,
            "shadow": self.shadow,
            "seen_at_ms": self.seen_at_ms,
            "counts": counts_if_known(self.counts()),
        })
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.limit.clone(),
            or_dash(&self.key),
            self.used.to_string(),
            self.amount.to_string(),
            format!("{:.0}%", self.share * 100.0),
            time(self.reset_at_ms),
            yes(self.shadow),
            time(self.seen_at_ms),
            counts_if_known(self.counts()).map_or("-", |_| unit(self.counts())).to_owned(),
        ]
    }
}
