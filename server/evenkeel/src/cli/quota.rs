//! `evenkeel quota`: balances of consumers.

use clap::{Args, Subcommand};
use evenkeel_proto::v1 as pb;
use serde_json::{Value, json};

use super::{
    amount::{OF_COST, amount, unit},
    connect::{As, Ask},
    exit::answered,
    output::{Column, Item, length, number, text, time, yes},
};

/// Look at and change the balances of consumers.
#[derive(Args)]
#[command(after_help = OF_COST)]
pub(crate) struct Quota {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show one consumer's balance
    Get(Get),
    /// Set a prepaid balance, or a budget's amount per period
    Set(Set),
    /// Add to a balance or budget
    Add(Adjust),
    /// Take from a balance or budget, down to 0
    Subtract(Adjust),
    /// Forget a consumer's record: the configured default applies again
    Delete(Delete),
    /// Show all consumers with a record, by name
    List(List),
    /// Show what administrators changed, newest first
    History(Get),
    /// Show whose quotas run out soonest, at the rate of the last hour
    Burn(Burn),
}

#[derive(Args)]
#[command(after_help = OF_COST)]
struct Get {
    /// Whose
    consumer: String,
    #[command(flatten)]
    of: Of,
}

#[derive(Args)]
struct Of {
    /// Name of the quota; may be left out where only one is configured
    #[arg(long, default_value = "", hide_default_value = true)]
    quota: String,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Args)]
#[command(after_help = OF_COST)]
struct Set {
    /// Whose
    consumer: String,
    /// The new balance or amount, such as 10000, 100k or 1.5M; of cost, in millionths of the currency: 2.5M for 2.50
    #[arg(value_parser = amount)]
    amount: u64,
    /// Why: kept in the history
    #[arg(long, default_value = "", hide_default_value = true)]
    note: String,
    #[command(flatten)]
    of: Of,
    #[command(flatten)]
    by: As,
}

#[derive(Args)]
#[command(after_help = OF_COST)]
struct Adjust {
    /// Whose
    consumer: String,
    /// How much, such as 10000, 100k or 1.5M; of cost, in millionths of the currency: 2.5M for 2.50
    #[arg(value_parser = amount)]
    amount: u64,
    /// Why: kept in the history
    #[arg(long, default_value = "", hide_default_value = true)]
    note: String,
    /// Makes a repeated call harmless: one with the id of an earlier change does nothing
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ID")]
    request_id: String,
    #[command(flatten)]
    of: Of,
    #[command(flatten)]
    by: As,
}

#[derive(Args)]
struct Delete {
    /// Whose
    consumer: String,
    #[command(flatten)]
    of: Of,
    #[command(flatten)]
    by: As,
}

#[derive(Args)]
#[command(after_help = OF_COST)]
struct List {
    /// Only consumers whose names begin so
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,
    #[command(flatten)]
    of: Of,
}

#[derive(Args)]
#[command(after_help = OF_COST)]
struct Burn {
    /// Only this quota's
    #[arg(long, default_value = "", hide_default_value = true)]
    quota: String,
    /// Only consumers whose names contain this
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    search: String,
    /// At most this many
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    top: u32,
    #[command(flatten)]
    ask: Ask,
}

impl Quota {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Get(get) => get.run().await,
            Command::Set(set) => set.run().await,
            Command::Add(add) => add.run(1).await,
            Command::Subtract(subtract) => subtract.run(-1).await,
            Command::Delete(delete) => delete.run().await,
            Command::List(list) => list.run().await,
            Command::History(history) => history.history().await,
            Command::Burn(burn) => burn.run().await,
        }
    }
}

impl Get {
    async fn run(self) -> anyhow::Result<()> {
        let Of { quota, ask } = self.of;
        let request = pb::GetQuotaRequest { quota, consumer: self.consumer };
        let quota = ask.admin().await?.get_quota(request).await.map_err(answered)?.into_inner();
        ask.output.one(&quota)
    }

    async fn history(self) -> anyhow::Result<()> {
        let Of { quota, ask } = self.of;
        let request = pb::ListQuotaChangesRequest { quota, consumer: self.consumer };
        let answer = ask.admin().await?.list_quota_changes(request).await.map_err(answered)?.into_inner();
        ask.output.list(&answer.changes)
    }
}

impl Set {
    async fn run(self) -> anyhow::Result<()> {
        let Of { quota, ask } = self.of;
        let Self { consumer, amount, note, by, .. } = self;
        let request = by.request(pb::SetQuotaRequest { quota, consumer, amount, note })?;
        let quota = ask.admin().await?.set_quota(request).await.map_err(answered)?.into_inner();
        ask.output.one(&quota)
    }
}

impl Adjust {
    async fn run(self, sign: i64) -> anyhow::Result<()> {
        let Of { quota, ask } = self.of;
        let Self { consumer, amount, note, request_id, by, .. } = self;
        let delta = sign * amount as i64;
        let request = by.request(pb::AdjustQuotaRequest { quota, consumer, delta, note, request_id })?;
        let quota = ask.admin().await?.adjust_quota(request).await.map_err(answered)?.into_inner();
        ask.output.one(&quota)
    }
}

impl Delete {
    async fn run(self) -> anyhow::Result<()> {
        let Of { quota, ask } = self.of;
        let request = self.by.request(pb::DeleteQuotaRequest { quota, consumer: self.consumer.clone() })?;
        ask.admin().await?.delete_quota(request).await.map_err(answered)?;
        ask.output.one(&Deleted(self.consumer))
    }
}

impl List {
    async fn run(self) -> anyhow::Result<()> {
        let Of { quota, ask } = self.of;
        let mut client = ask.admin().await?;
        let (mut quotas, mut page_token) = (Vec::new(), String::new());
        loop {
            let (quota, prefix) = (quota.clone(), self.prefix.clone());
            let request = pb::ListQuotasRequest { quota, prefix, page_size: 1000, page_token };
            let page = client.list_quotas(request).await.map_err(answered)?.into_inner();
            quotas.extend(page.quotas);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return ask.output.list(&quotas);
            }
        }
    }
}

impl Burn {
    async fn run(self) -> anyhow::Result<()> {
        let Self { quota, search, top, ask } = self;
        let request = pb::ListQuotaBurnsRequest { quota, search, page_size: top, page_token: String::new() };
        let answer = ask.inspect().await?.list_quota_burns(request).await.map_err(answered)?.into_inner();
        let burns = || answer.burns.iter().map(Item::json).collect::<Vec<_>>();
        ask.output.print(&answer.burns, || json!({"burns": burns(), "total": answer.total}))
    }
}

pub(super) fn counts(counts: pb::Counts) -> &'static str {
    match counts {
        pb::Counts::Unspecified => "unknown",
        pb::Counts::Requests => "requests",
        pb::Counts::Tokens => "tokens",
        pb::Counts::InputTokens => "input_tokens",
        pb::Counts::OutputTokens => "output_tokens",
        pb::Counts::Cost => "cost",
    }
}

/// None for what is no longer configured.
pub(super) fn counts_if_known(of: pb::Counts) -> Option<&'static str> {
    Some(of).filter(|of| *of != pb::Counts::Unspecified).map(counts)
}

impl Item for pb::Quota {
    const LIST: &'static str = "quotas";
    const COLUMNS: &'static [Column] = &[
        text("quota", "QUOTA"),
        text("consumer", "CONSUMER"),
        number("balance", "BALANCE"),
        number("reserved", "RESERVED"),
        number("used", "USED"),
        number("overrun", "OVERRUN"),
        number("amount", "AMOUNT"),
        number("reset_ms", "RESETS-IN"),
        text("counts", "COUNTS"),
        text("recorded", "RECORDED"),
    ];

    fn json(&self) -> Value {
        json!({
            "quota": self.quota,
            "consumer": self.consumer,
            "balance": self.balance,
            "reserved": self.reserved,
            "amount": self.amount,
            "used": self.used,
            "overrun": self.overrun,
            "reset_ms": self.reset_ms,
            "counts": counts(self.counts()),
            "recorded": self.recorded,
        })
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.quota.clone(),
            self.consumer.clone(),
            self.balance.to_string(),
            self.reserved.to_string(),
            self.used.to_string(),
            self.overrun.to_string(),
            // A prepaid quota has no period.
            if self.reset_ms == 0 { "-".to_owned() } else { self.amount.to_string() },
            length(self.reset_ms),
            unit(self.counts()).to_owned(),
            if self.recorded { yes(true) } else { "no (default)".to_owned() },
        ]
    }
}

impl Item for pb::QuotaChange {
    const LIST: &'static str = "changes";
    const COLUMNS: &'static [Column] = &[
        text("at_ms", "TIME"),
        text("what", "CHANGE"),
        number("before", "BEFORE"),
        number("after", "AFTER"),
        text("who", "WHO"),
        text("note", "NOTE"),
    ];

    fn json(&self) -> Value {
        let Self { at_ms, who, what, before, after, note } = self;
        json!({"at_ms": at_ms, "who": who, "what": what, "before": before, "after": after, "note": note})
    }

    fn cells(&self) -> Vec<String> {
        let (before, after) = (self.before.to_string(), self.after.to_string());
        vec![time(self.at_ms), self.what.clone(), before, after, self.who.clone(), self.note.clone()]
    }
}

/// Whose record is no more.
struct Deleted(String);

impl Item for Deleted {
    const LIST: &'static str = "deleted";
    const COLUMNS: &'static [Column] = &[text("deleted", "DELETED")];

    fn json(&self) -> Value {
        json!({"deleted": self.0})
    }

    fn cells(&self) -> Vec<String> {
        vec![self.0.clone()]
    }
}

impl Item for pb::QuotaBurn {
    const LIST: &'static str = "burns";
    const COLUMNS: &'static [Column] = &[
        text("quota", "QUOTA"),
        text("consumer", "CONSUMER"),
        number("balance", "BALANCE"),
        number("amount", "AMOUNT"),
        number("burn_per_hour", "PER-HOUR"),
        text("runs_out_at_ms", "RUNS-OUT"),
        text("reset_at_ms", "FULL-AGAIN"),
        text("seen_at_ms", "SEEN"),
        text("counts", "COUNTS"),
    ];

    fn json(&self) -> Value {
        json!({
            "quota": self.quota,
            "consumer": self.consumer,
            "balance": self.balance,
            "amount": self.amount,
            "burn_per_hour": self.burn_per_hour,
            "runs_out_at_ms": self.runs_out_at_ms,
            "reset_at_ms": self.reset_at_ms,
            "seen_at_ms": self.seen_at_ms,
            "counts": counts_if_known(self.counts()),
        })
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.quota.clone(),
            self.consumer.clone(),
            self.balance.to_string(),
            if self.reset_at_ms == 0 { "-".to_owned() } else { self.amount.to_string() },
            format!("{:.0}", self.burn_per_hour),
            time(self.runs_out_at_ms),
            time(self.reset_at_ms),
            time(self.seen_at_ms),
            counts_if_known(self.counts()).map_or("-", |_| unit(self.counts())).to_owned(),
        ]
    }
}
