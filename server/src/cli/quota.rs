//! `evenkeel quota`: balances of consumers.

use clap::{Args, Subcommand};
use evenkeel_proto::v1 as pb;
use serde_json::{Value, json};

use super::{
    admin::{As, Ask},
    client::answered,
    table::{Output, length, print_json, print_table, time},
};

/// Look at and change the balances of consumers.
#[derive(Args)]
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
}

#[derive(Args)]
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
struct Set {
    /// Whose
    consumer: String,
    /// The new balance or amount
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
struct Adjust {
    /// Whose
    consumer: String,
    /// How much
    #[arg(value_parser = clap::value_parser!(u64).range(..=1_000_000_000_000_000))]
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
struct List {
    /// Only consumers whose names begin so
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,
    #[command(flatten)]
    of: Of,
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
        }
    }
}

impl Get {
    async fn run(self) -> anyhow::Result<()> {
        let Of { quota, ask } = self.of;
        let request = pb::GetQuotaRequest { quota, consumer: self.consumer };
        let quota = ask.client().await?.get_quota(request).await.map_err(answered)?.into_inner();
        print_one(ask.output, &quota)
    }

    async fn history(self) -> anyhow::Result<()> {
        let Of { quota, ask } = self.of;
        let request = pb::ListQuotaChangesRequest { quota, consumer: self.consumer };
        let answer = ask.client().await?.list_quota_changes(request).await.map_err(answered)?.into_inner();
        if ask.output == Output::Json {
            let changes: Vec<Value> = answer.changes.iter().map(change_as_json).collect();
            return Ok(print_json(&json!({"changes": changes}))?);
        }
        let row = |change: pb::QuotaChange| {
            let (before, after) = (change.before.to_string(), change.after.to_string());
            vec![time(change.at_ms), change.what, before, after, change.who, change.note]
        };
        let rows: Vec<_> = answer.changes.into_iter().map(row).collect();
        Ok(print_table(&["TIME", "CHANGE", "BEFORE", "AFTER", "WHO", "NOTE"], &rows)?)
    }
}

impl Set {
    async fn run(self) -> anyhow::Result<()> {
        let Of { quota, ask } = self.of;
        let Self { consumer, amount, note, by, .. } = self;
        let request = by.request(pb::SetQuotaRequest { quota, consumer, amount, note })?;
        let quota = ask.client().await?.set_quota(request).await.map_err(answered)?.into_inner();
        print_one(ask.output, &quota)
    }
}

impl Adjust {
    async fn run(self, sign: i64) -> anyhow::Result<()> {
        let Of { quota, ask } = self.of;
        let Self { consumer, amount, note, request_id, by, .. } = self;
        let delta = sign * amount as i64;
        let request = by.request(pb::AdjustQuotaRequest { quota, consumer, delta, note, request_id })?;
        let quota = ask.client().await?.adjust_quota(request).await.map_err(answered)?.into_inner();
        print_one(ask.output, &quota)
    }
}

impl Delete {
    async fn run(self) -> anyhow::Result<()> {
        let Of { quota, ask } = self.of;
        let request = self.by.request(pb::DeleteQuotaRequest { quota, consumer: self.consumer.clone() })?;
        ask.client().await?.delete_quota(request).await.map_err(answered)?;
        match ask.output {
            Output::Json => print_json(&json!({"deleted": self.consumer}))?,
            Output::Table => print_table(&["DELETED"], &[vec![self.consumer]])?,
        }
        Ok(())
    }
}

impl List {
    async fn run(self) -> anyhow::Result<()> {
        let Of { quota, ask } = self.of;
        let mut client = ask.client().await?;
        let (mut quotas, mut page_token) = (Vec::new(), String::new());
        loop {
            let (quota, prefix) = (quota.clone(), self.prefix.clone());
            let request = pb::ListQuotasRequest { quota, prefix, page_size: 1000, page_token };
            let page = client.list_quotas(request).await.map_err(answered)?.into_inner();
            quotas.extend(page.quotas);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        if ask.output == Output::Json {
            let quotas: Vec<Value> = quotas.iter().map(as_json).collect();
            return Ok(print_json(&json!({"quotas": quotas}))?);
        }
        Ok(print_table(&HEADER, &quotas.iter().map(row).collect::<Vec<_>>())?)
    }
}

const HEADER: [&str; 10] = [
    "QUOTA",
    "CONSUMER",
    "BALANCE",
    "RESERVED",
    "USED",
    "OVERRUN",
    "AMOUNT",
    "RESETS-IN",
    "COUNTS",
    "RECORDED",
];

fn print_one(output: Output, quota: &pb::Quota) -> anyhow::Result<()> {
    match output {
        Output::Json => print_json(&as_json(quota))?,
        Output::Table => print_table(&HEADER, &[row(quota)])?,
    }
    Ok(())
}

fn row(quota: &pb::Quota) -> Vec<String> {
    vec![
        quota.quota.clone(),
        quota.consumer.clone(),
        quota.balance.to_string(),
        quota.reserved.to_string(),
        quota.used.to_string(),
        quota.overrun.to_string(),
        // A prepaid quota has no period.
        if quota.reset_ms == 0 { "-".to_owned() } else { quota.amount.to_string() },
        length(quota.reset_ms),
        counts(quota.counts()).to_owned(),
        if quota.recorded { "yes" } else { "no (default)" }.to_owned(),
    ]
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

/// As the HTTP API has it.
fn as_json(quota: &pb::Quota) -> Value {
    json!({
        "quota": quota.quota,
        "consumer": quota.consumer,
        "balance": quota.balance,
        "reserved": quota.reserved,
        "amount": quota.amount,
        "used": quota.used,
        "overrun": quota.overrun,
        "reset_ms": quota.reset_ms,
        "counts": counts(quota.counts()),
        "recorded": quota.recorded,
    })
}

fn change_as_json(change: &pb::QuotaChange) -> Value {
    let pb::QuotaChange { at_ms, who, what, before, after, note } = change;
    json!({"at_ms": at_ms, "who": who, "what": what, "before": before, "after": after, "note": note})
}
