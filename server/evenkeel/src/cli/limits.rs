//! `evenkeel limits`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use evenkeel_proto::v1::{self as pb, Algorithm};

use super::{
    amount::{OF_COST, amount, unit},
    connect::Ask,
    exit::failed,
    list::{Search, pages, print},
    output::{Column, Item, count_or_dash, csv_only, number, or_dash, percent, text, time, word, yes},
};

/// Show limits, and override them for one consumer or another key.
#[derive(Args)]
#[command(after_help = OF_COST)]
pub(crate) struct Limits {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the active limits, as configured
    List(List),
    /// Override the amount of a limit for one key, or exempt the key
    Override(Override),
    /// Remove an override, so that the configured amount applies again
    Reset(Reset),
    /// Show overrides
    Overrides(OfLimit),
    /// Show the keys that have used the largest fraction of their limit, among keys that counted requests recently
    Fullest(OfLimit),
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
    /// Amount for this key, such as 10000, 100k or 1.5M; cost in millionths of the currency:
    /// 2.5M for 2.50
    #[arg(long, required_unless_present = "unlimited", conflicts_with = "unlimited", value_name = "N", value_parser = amount)]
    amount: Option<u64>,
    /// Exempt the key from the limit
    #[arg(long)]
    unlimited: bool,
    /// How long the override lasts, such as 30m, 2h or 7d; by default, until it is removed
    #[arg(long = "for", value_name = "TIME", value_parser = humantime_serde::re::humantime::parse_duration)]
    lasts: Option<Duration>,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Args)]
struct Reset {
    /// Name of the limit
    limit: String,
    /// The key, as `overrides` shows it
    key: String,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Args)]
#[command(after_help = OF_COST)]
struct OfLimit {
    /// Show only rows of this limit
    #[arg(long, default_value = "", hide_default_value = true, value_name = "LIMIT")]
    limit: String,
    #[command(flatten)]
    list: Search,
    #[command(flatten)]
    ask: Ask,
}

impl Limits {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::List(list) => list.run().await,
            Command::Override(set) => set.run().await,
            Command::Reset(reset) => reset.run().await,
            Command::Overrides(which) => which.overrides().await,
            Command::Fullest(which) => which.fullest().await,
        }
    }
}

impl List {
    async fn run(self) -> anyhow::Result<()> {
        let answer = self.ask.admin().await?.list_limits(pb::ListLimitsRequest {}).await;
        let answer = answer.map_err(failed("list the limits"))?.into_inner();
        self.ask.output.list(&answer.limits, &answer)
    }
}

impl Override {
    async fn run(self) -> anyhow::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let new = pb::SetOverrideRequest {
            limit: self.limit,
            key: self.key,
            amount: self.amount,
            unlimited: self.unlimited,
            expires_at_ms: self.lasts.map_or(0, |lasts| (now + lasts).as_millis() as u64),
        };
        let set = self.ask.admin().await?.set_override(new).await;
        let set = set.map_err(failed("set the override (`evenkeel limits list` lists the limits)"))?;
        self.ask.output.one(&set.into_inner())
    }
}

impl Reset {
    async fn run(self) -> anyhow::Result<()> {
        let Self { limit, key, ask } = self;
        let reset = pb::DeleteOverrideRequest { limit, key };
        let done = ask.admin().await?.delete_override(reset.clone()).await;
        done.map_err(failed("remove the override (`evenkeel limits overrides` lists all)"))?;
        ask.output.one(&reset)
    }
}

impl OfLimit {
    async fn overrides(self) -> anyhow::Result<()> {
        let Self { limit, list: Search { search, rows }, ask } = self;
        let request = pb::ListOverridesRequest { limit, search, ..pb::ListOverridesRequest::default() };
        let (client, most) = (ask.admin().await?, rows.limit(ask.output));
        let answer = pages!(client, list_overrides, request, overrides, most, "list the overrides");
        print(ask.output, &answer.overrides, &answer.next_page_token, &answer)
    }

    async fn fullest(self) -> anyhow::Result<()> {
        let Self { limit, list: Search { search, rows }, ask } = self;
        let request = pb::ListFullestKeysRequest { limit, search, ..pb::ListFullestKeysRequest::default() };
        let (client, most) = (ask.inspect().await?, rows.limit(ask.output));
        let answer = pages!(client, list_fullest_keys, request, keys, most, "list the fullest keys");
        print(ask.output, &answer.keys, &answer.next_page_token, &answer)
    }
}

impl Item for pb::Limit {
    const COLUMNS: &'static [Column<Self>] = &[
        text("name", "LIMIT", |l| l.name.clone()),
        text("counts", "COUNTS", |l| unit(l.counts)),
        text("algorithm", "ALGORITHM", |l| word::<Algorithm>(l.algorithm)),
        number("amount", "AMOUNT", |l| l.amount.to_string()),
        number("burst", "BURST", |l| count_or_dash(l.burst())),
        text("per", "PER", |l| or_dash(l.per())),
        text("key", "KEY", |l| if l.key.is_empty() { "(all)".to_owned() } else { l.key.join(", ") }),
        text("shadow", "SHADOW", |l| yes(l.shadow)),
    ];
}

impl Item for pb::Override {
    const COLUMNS: &'static [Column<Self>] = &[
        text("limit", "LIMIT", |o| o.limit.clone()),
        text("key", "KEY", |o| o.key.clone()),
        number("amount", "AMOUNT", |o| o.amount.map_or_else(|| "unlimited".to_owned(), |n| n.to_string())),
        csv_only("unlimited"),
        text("expires_at_ms", "UNTIL", |o| time(o.expires_at_ms)),
        text("who", "WHO", |o| o.who.clone()),
        text("at_ms", "SET", |o| time(o.at_ms)),
    ];
}

impl Item for pb::DeleteOverrideRequest {
    const COLUMNS: &'static [Column<Self>] =
        &[text("limit", "RESET", |o| o.limit.clone()), text("key", "KEY", |o| o.key.clone())];
}

impl Item for pb::FullestKey {
    const COLUMNS: &'static [Column<Self>] = &[
        text("limit", "LIMIT", |k| k.limit.clone()),
        text("key", "KEY", |k| k.key.clone()),
        number("used", "USED", |k| k.used.to_string()),
        number("amount", "AMOUNT", |k| k.amount.to_string()),
        number("share", "SHARE", |k| percent(k.share)),
        text("reset_at_ms", "ROOM-AT", |k| time(k.reset_at_ms)),
        text("shadow", "SHADOW", |k| yes(k.shadow)),
        text("seen_at_ms", "LAST-SEEN", |k| time(k.seen_at_ms)),
        text("counts", "COUNTS", |k| unit(k.counts)),
    ];
}
