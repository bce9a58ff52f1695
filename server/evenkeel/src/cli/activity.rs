//! `evenkeel activity`.

use std::time::Duration;

use clap::Args;
use evenkeel_proto::v1 as pb;
use humantime_serde::re::humantime::parse_duration;

use super::{
    connect::{Ask, OnlyPool},
    exit::failed,
    output::{Column, Item, csv_only, number, text, time},
};

/// Show the number of requests over time, by result.
#[derive(Args)]
pub(crate) struct Activity {
    /// Time span up to now, such as 15m or 6h; at most 48h. A span of up to 1h has steps of 10 seconds, a longer one
    /// steps of 5 minutes
    #[arg(long, default_value = "15m", value_parser = parse_duration, value_name = "TIME")]
    span: Duration,
    #[command(flatten)]
    pool: OnlyPool,
    #[command(flatten)]
    ask: Ask,
}

impl Activity {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let (route, cluster) = self.pool.names();
        let request = pb::GetActivityRequest { route, cluster, span_ms: self.span.as_millis() as u64 };
        let answer = self.ask.inspect().await?.get_activity(request).await;
        let answer = answer.map_err(failed("show the activity"))?.into_inner();
        self.ask.output.list(&answer.steps, &answer)
    }
}

impl Item for pb::ActivityStep {
    const COLUMNS: &'static [Column<Self>] = &[
        text("at_ms", "FROM", |s| time(s.at_ms)),
        csv_only("admitted"),
        csv_only("refused"),
        number("shared", "SHARED", |s| s.shared.to_string()),
        number("local", "LOCAL", |s| s.local.to_string()),
        number("open", "OPEN", |s| s.open.to_string()),
        number("pool_full", "POOL-FULL", |s| s.pool_full.to_string()),
        number("no_endpoints", "NO-ENDPOINTS", |s| s.no_endpoints.to_string()),
        number("limit", "LIMIT", |s| s.limit.to_string()),
        number("quota", "QUOTA", |s| s.quota.to_string()),
        number("store_unavailable", "STORE-DOWN", |s| s.store_unavailable.to_string()),
    ];
}
