//! `evenkeel gateways`.

use clap::Args;
use evenkeel_proto::v1 as pb;

use super::{
    connect::Ask,
    list::{Rows, pages, print},
    output::{Column, Item, count_or_dash, csv_only, number, or_dash, text, time},
};

/// Show gateways.
#[derive(Args)]
pub(crate) struct Gateways {
    /// Show only gateways whose name or sidecar contains this text
    #[arg(long, default_value = "", hide_default_value = true)]
    search: String,
    #[command(flatten)]
    rows: Rows,
    #[command(flatten)]
    ask: Ask,
}

impl Gateways {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let Self { search, rows, ask } = self;
        let request = pb::ListGatewaysRequest { search, ..pb::ListGatewaysRequest::default() };
        let (client, limit) = (ask.inspect().await?, rows.limit(ask.output));
        let answer = pages!(client, list_gateways, request, gateways, limit, "list the gateways");
        print(ask.output, &answer.gateways, &answer.next_page_token, &answer)
    }
}

fn state(gateway: &pb::GatewayState) -> &'static str {
    let is_now = |gap: Option<&pb::LimitGap>| gap.is_some_and(|gap| gap.now);
    match (is_now(gateway.unlimited.as_ref()), is_now(gateway.local.as_ref())) {
        (true, _) => "not limited",
        (_, true) => "store down",
        _ if gateway.workers > 0 => "connected",
        _ if gateway.lost_at_ms > 0 => "lost",
        _ => "ended",
    }
}

/// Formats the causes of a gap, such as `3 late, 1 failed`.
fn causes(gap: pb::LimitGap) -> String {
    let causes = [(gap.unreachable, "unreachable"), (gap.late, "late"), (gap.failed, "failed")];
    let causes = causes.iter().filter(|(n, _)| *n > 0).map(|(n, cause)| format!("{n} {cause}"));
    causes.collect::<Vec<_>>().join(", ")
}

impl Item for pb::GatewayState {
    const COLUMNS: &'static [Column<Self>] = &[
        text("gateway", "GATEWAY", |g| or_dash(&g.gateway)),
        text("", "STATE", |g| state(g).to_owned()),
        number("workers", "WORKERS", |g| g.workers.to_string()),
        text("sidecars", "SIDECARS", |g| g.sidecars.join(" ")),
        text("lost_at_ms", "LOST", |g| time(g.lost_at_ms)),
        csv_only("unlimited.now"),
        text("unlimited.since_at_ms", "NOT-LIMITED-SINCE", |g| {
            time(g.unlimited.map_or(0, |gap| gap.since_at_ms))
        }),
        text("unlimited.last_at_ms", "UNTIL", |g| {
            g.unlimited.map_or_else(
                || "-".to_owned(),
                |gap| if gap.now { "now".to_owned() } else { time(gap.last_at_ms) },
            )
        }),
        text("", "REQUESTS", |g| g.unlimited.map_or_else(|| "-".to_owned(), causes)),
        csv_only("unlimited.unreachable"),
        csv_only("unlimited.late"),
        csv_only("unlimited.failed"),
        number("local.without_store", "WITHOUT-STORE", |g| {
            count_or_dash(g.local.map_or(0, |gap| gap.requests))
        }),
    ];
}
