//! `evenkeel refusals`, `repairs` and `changes`.

use clap::Args;
use evenkeel_proto::v1::{self as pb, Reason};

use super::{
    connect::Ask,
    exit::failed,
    list::{Rows, pages, print},
    output::{Column, Item, Output, count_or_dash, csv_only, number, or_dash, put, text, time, word},
    pools::pool_text,
};

/// Show refusals.
#[derive(Args)]
pub(crate) struct Refusals {
    /// Show only the refusal of this request (x-request-id), with all details
    #[arg(value_name = "REQUEST-ID", conflicts_with = "rows")]
    request_id: Option<String>,
    /// Show only refusals of this consumer
    #[arg(long, default_value = "", hide_default_value = true, conflicts_with = "request_id")]
    consumer: String,
    #[command(flatten)]
    rows: Rows,
    #[command(flatten)]
    ask: Ask,
}

/// Show repairs.
#[derive(Args)]
pub(crate) struct Repairs {
    #[command(flatten)]
    rows: Rows,
    #[command(flatten)]
    ask: Ask,
}

/// Show what administrators changed.
#[derive(Args)]
pub(crate) struct Changes {
    #[command(flatten)]
    rows: Rows,
    #[command(flatten)]
    ask: Ask,
}

impl Refusals {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        if let Some(request_id) = self.request_id {
            return refusal(&self.ask, request_id).await;
        }
        let Self { consumer, rows, ask, .. } = self;
        let request = pb::ListRefusalsRequest { consumer, ..pb::ListRefusalsRequest::default() };
        let (client, limit) = (ask.inspect().await?, rows.limit(ask.output));
        let answer = pages!(client, list_refusals, request, refusals, limit, "list the refusals");
        print(ask.output, &answer.refusals, &answer.next_page_token, &answer)
    }
}

/// Prints the reason of one refusal.
pub(super) async fn refusal(ask: &Ask, request_id: String) -> anyhow::Result<()> {
    let request = pb::GetRefusalRequest { request_id };
    let refusal = ask.inspect().await?.get_refusal(request).await;
    let refusal =
        refusal.map_err(failed("explain the refusal (`evenkeel refusals` lists the last)"))?.into_inner();
    if ask.output == Output::Table {
        return Ok(put(&in_words(&refusal))?);
    }
    ask.output.one(&refusal)
}

/// Formats a refusal for people: one line for each known fact.
fn in_words(refusal: &pb::Refusal) -> String {
    let numbers =
        format!("{} used of {}; the request would have taken {}", refusal.used, refusal.amount, refusal.cost);
    let again =
        if refusal.retry_after_ms == 0 { String::new() } else { format!("{} ms", refusal.retry_after_ms) };
    let facts = [
        ("request", refusal.request_id.clone()),
        ("refused at", time(refusal.at_ms)),
        ("because", refusal.why.clone()),
        ("reason", word::<Reason>(refusal.reason)),
        ("answered", refusal.status.to_string()),
        ("try again in", again),
        ("pool", pool_text(refusal.pool.as_ref(), "")),
        ("consumer", refusal.consumer.clone()),
        ("model", refusal.model.clone()),
        ("limit", refusal.limit.clone()),
        ("key", refusal.key.clone()),
        ("how it stood", if refusal.limit.is_empty() { String::new() } else { numbers }),
        ("sidecar", refusal.sidecar.clone()),
    ];
    let known = facts.iter().filter(|(_, value)| !value.is_empty());
    known
        .map(|(name, value)| {
            let value: String = value.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
            format!("{name:<13} {value}\n")
        })
        .collect()
}

impl Item for pb::Refusal {
    const COLUMNS: &'static [Column<Self>] = &[
        text("at_ms", "AT", |r| time(r.at_ms)),
        text("request_id", "REQUEST", |r| or_dash(&r.request_id)),
        number("status", "STATUS", |r| count_or_dash(r.status.into())),
        text("reason", "REASON", |r| word::<Reason>(r.reason)),
        text("consumer", "CONSUMER", |r| or_dash(&r.consumer)),
        text("model", "MODEL", |r| or_dash(&r.model)),
        csv_only("pool.route"),
        csv_only("pool.cluster"),
        text("", "POOL", |r| pool_text(r.pool.as_ref(), "-")),
        text("limit", "LIMIT", |r| or_dash(&r.limit)),
        csv_only("key"),
        csv_only("amount"),
        csv_only("used"),
        csv_only("cost"),
        csv_only("retry_after_ms"),
        csv_only("sidecar"),
        text("why", "WHY", |r| r.why.clone()),
    ];
}

impl Repairs {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let Self { rows, ask } = self;
        let (client, request, limit) =
            (ask.inspect().await?, pb::ListRepairsRequest::default(), rows.limit(ask.output));
        let answer = pages!(client, list_repairs, request, repairs, limit, "list the repairs");
        print(ask.output, &answer.repairs, &answer.next_page_token, &answer)
    }
}

impl Item for pb::Repair {
    const COLUMNS: &'static [Column<Self>] = &[
        text("at_ms", "AT", |r| time(r.at_ms)),
        text("kind", "KIND", |r| r.kind.clone()),
        number("count", "COUNT", |r| r.count.to_string()),
        csv_only("pool.route"),
        csv_only("pool.cluster"),
        text("", "POOL", |r| pool_text(r.pool.as_ref(), "-")),
        text("holder", "HOLDER", |r| or_dash(&r.holder)),
        text("sidecar", "SIDECAR", |r| or_dash(&r.sidecar)),
    ];
}

impl Changes {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let Self { rows, ask } = self;
        let (client, request, limit) =
            (ask.admin().await?, pb::ListChangesRequest::default(), rows.limit(ask.output));
        let answer = pages!(client, list_changes, request, changes, limit, "list the changes");
        print(ask.output, &answer.changes, &answer.next_page_token, &answer)
    }
}

impl Item for pb::AdminChange {
    const COLUMNS: &'static [Column<Self>] = &[
        text("at_ms", "AT", |c| time(c.at_ms)),
        text("who", "WHO", |c| c.who.clone()),
        text("what", "CHANGE", |c| c.what.clone()),
        text("target", "OF", |c| c.target.clone()),
        text("before", "BEFORE", |c| or_dash(&c.before)),
        text("after", "AFTER", |c| or_dash(&c.after)),
        text("note", "NOTE", |c| c.note.clone()),
    ];
}
