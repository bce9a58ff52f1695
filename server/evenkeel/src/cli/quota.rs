//! `evenkeel quota`.

use clap::{Args, Subcommand};
use evenkeel_proto::v1 as pb;

use super::{
    amount::{OF_COST, amount, unit},
    connect::Ask,
    exit::failed,
    list::{Search, pages, print},
    output::{Column, Item, duration, number, text, time, yes},
};

/// Show and change the balances of consumers.
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
    /// Subtract from a balance or budget; the result is at least 0
    Subtract(Adjust),
    /// Delete a consumer's record, so that the configured default applies again
    Delete(Delete),
    /// Show all consumers that have a record, sorted by name
    List(List),
    /// Show the changes of one consumer's record, newest first
    History(Get),
    /// Show the consumers whose quotas run out soonest at the rate of the last hour
    BurnRates(BurnRates),
}

#[derive(Args)]
#[command(after_help = OF_COST)]
struct Get {
    /// Name of the consumer
    consumer: String,
    #[command(flatten)]
    of: Of,
}

#[derive(Args)]
struct Of {
    /// Name of the quota; may be omitted if only one quota is configured
    #[arg(long, default_value = "", hide_default_value = true)]
    quota: String,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Args)]
#[command(after_help = OF_COST)]
struct Set {
    /// Name of the consumer
    consumer: String,
    /// The new balance or amount, such as 10000, 100k or 1.5M; cost in millionths of the currency: 2.5M for 2.50
    #[arg(value_parser = amount)]
    amount: u64,
    /// Reason for the change log
    #[arg(long, default_value = "", hide_default_value = true)]
    note: String,
    #[command(flatten)]
    of: Of,
}

#[derive(Args)]
#[command(after_help = OF_COST)]
struct Adjust {
    /// Name of the consumer
    consumer: String,
    /// The amount to add or subtract, such as 10000, 100k or 1.5M; cost in millionths of the currency: 2.5M for 2.50
    #[arg(value_parser = amount)]
    amount: u64,
    /// Reason for the change log
    #[arg(long, default_value = "", hide_default_value = true)]
    note: String,
    /// Id of this change. It makes a retry safe: a call with the id of an earlier change does nothing
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ID")]
    request_id: String,
    #[command(flatten)]
    of: Of,
}

#[derive(Args)]
struct Delete {
    /// Name of the consumer
    consumer: String,
    #[command(flatten)]
    of: Of,
}

#[derive(Args)]
#[command(after_help = OF_COST)]
struct List {
    #[command(flatten)]
    list: Search,
    #[command(flatten)]
    of: Of,
}

#[derive(Args)]
#[command(after_help = OF_COST)]
struct BurnRates {
    /// Show only consumers of this quota
    #[arg(long, default_value = "", hide_default_value = true)]
    quota: String,
    #[command(flatten)]
    list: Search,
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
            Command::BurnRates(burn_rates) => burn_rates.run().await,
        }
    }
}

const SHOW: &str = "show the quota (`evenkeel quota list` lists all records)";
const CHANGE: &str = "change the quota (`evenkeel quota list` lists all records)";

impl Get {
    async fn run(self) -> anyhow::Result<()> {
        let Of { quota, ask } = self.of;
        let request = pb::GetQuotaRequest { quota, consumer: self.consumer };
        let quota = ask.admin().await?.get_quota(request).await;
        ask.output.one(&quota.map_err(failed(SHOW))?.into_inner())
    }

    async fn history(self) -> anyhow::Result<()> {
        let Of { quota, ask } = self.of;
        let request = pb::ListQuotaChangesRequest { quota, consumer: self.consumer };
        let answer = ask.admin().await?.list_quota_changes(request).await;
        let answer = answer.map_err(failed(SHOW))?.into_inner();
        ask.output.list(&answer.changes, &answer)
    }
}

impl Set {
    async fn run(self) -> anyhow::Result<()> {
        let Of { quota, ask } = self.of;
        let Self { consumer, amount, note, .. } = self;
        let request = pb::SetQuotaRequest { quota, consumer, amount: Some(amount), note };
        let quota = ask.admin().await?.set_quota(request).await;
        ask.output.one(&quota.map_err(failed(CHANGE))?.into_inner())
    }
}

impl Adjust {
    async fn run(self, sign: i64) -> anyhow::Result<()> {
        let Of { quota, ask } = self.of;
        let Self { consumer, amount, note, request_id, .. } = self;
        let delta = Some(sign * amount as i64);
        let request = pb::AdjustQuotaRequest { quota, consumer, delta, note, request_id };
        let quota = ask.admin().await?.adjust_quota(request).await;
        ask.output.one(&quota.map_err(failed(CHANGE))?.into_inner())
    }
}

impl Delete {
    async fn run(self) -> anyhow::Result<()> {
        let Of { quota, ask } = self.of;
        let delete = pb::DeleteQuotaRequest { quota, consumer: self.consumer };
        let done = ask.admin().await?.delete_quota(delete.clone()).await;
        done.map_err(failed("delete the record (`evenkeel quota list` lists all)"))?;
        ask.output.one(&delete)
    }
}

impl List {
    async fn run(self) -> anyhow::Result<()> {
        let (Of { quota, ask }, Search { search, rows }) = (self.of, self.list);
        let request = pb::ListQuotasRequest { quota, search, ..pb::ListQuotasRequest::default() };
        let (client, limit) = (ask.admin().await?, rows.limit(ask.output));
        let answer = pages!(client, list_quotas, request, quotas, limit, "list the quota's records");
        print(ask.output, &answer.quotas, &answer.next_page_token, &answer)
    }
}

impl BurnRates {
    async fn run(self) -> anyhow::Result<()> {
        let Self { quota, list: Search { search, rows }, ask } = self;
        let request = pb::ListBurnRatesRequest { quota, search, ..pb::ListBurnRatesRequest::default() };
        let (client, limit) = (ask.inspect().await?, rows.limit(ask.output));
        let answer = pages!(client, list_burn_rates, request, burn_rates, limit, "list the burn rates");
        print(ask.output, &answer.burn_rates, &answer.next_page_token, &answer)
    }
}

/// Formats a budget's amount per period; `-` for a prepaid balance, which has no period.
fn amount_of_budget(amount: u64, reset: u64) -> String {
    if reset == 0 { "-".to_owned() } else { amount.to_string() }
}

impl Item for pb::Quota {
    const COLUMNS: &'static [Column<Self>] = &[
        text("quota", "QUOTA", |q| q.quota.clone()),
        text("consumer", "CONSUMER", |q| q.consumer.clone()),
        number("balance", "BALANCE", |q| q.balance.to_string()),
        number("reserved", "RESERVED", |q| q.reserved.to_string()),
        number("used", "USED", |q| q.used.to_string()),
        number("overrun", "OVERRUN", |q| q.overrun.to_string()),
        number("amount", "AMOUNT", |q| amount_of_budget(q.amount, q.reset_ms)),
        number("reset_ms", "RESETS-IN", |q| duration(q.reset_ms)),
        text("counts", "COUNTS", |q| unit(q.counts)),
        text("recorded", "RECORDED", |q| if q.recorded { yes(true) } else { "no (default)".to_owned() }),
    ];
}

impl Item for pb::QuotaChange {
    const COLUMNS: &'static [Column<Self>] = &[
        text("at_ms", "TIME", |c| time(c.at_ms)),
        text("what", "CHANGE", |c| c.what.clone()),
        number("before", "BEFORE", |c| c.before.to_string()),
        number("after", "AFTER", |c| c.after.to_string()),
        text("who", "WHO", |c| c.who.clone()),
        text("note", "NOTE", |c| c.note.clone()),
    ];
}

impl Item for pb::DeleteQuotaRequest {
    const COLUMNS: &'static [Column<Self>] = &[text("consumer", "DELETED", |d| d.consumer.clone())];
}

impl Item for pb::BurnRate {
    const COLUMNS: &'static [Column<Self>] = &[
        text("quota", "QUOTA", |b| b.quota.clone()),
        text("consumer", "CONSUMER", |b| b.consumer.clone()),
        number("balance", "BALANCE", |b| b.balance.to_string()),
        number("amount", "AMOUNT", |b| amount_of_budget(b.amount, b.reset_at_ms)),
        number("burn_per_hour", "PER-HOUR", |b| format!("{:.0}", b.burn_per_hour)),
        text("runs_out_at_ms", "RUNS-OUT", |b| time(b.runs_out_at_ms)),
        text("reset_at_ms", "FULL-AGAIN", |b| time(b.reset_at_ms)),
        text("seen_at_ms", "LAST-SEEN", |b| time(b.seen_at_ms)),
        text("counts", "COUNTS", |b| unit(b.counts)),
    ];
}
