//! `evenkeel drain`, `undrain` and `drains`.

use clap::Args;
use evenkeel_proto::v1 as pb;

use super::{
    connect::{Ask, OnlyPool},
    exit::failed,
    output::{Column, Item, csv_only, or_dash, text, time},
    pools::pool_text,
};

/// Text that tables show as the pool of an endpoint that is drained in every pool.
const EVERY_POOL: &str = "(every pool)";

/// Drain an endpoint.
#[derive(Args)]
pub(crate) struct Drain {
    /// Address of the endpoint, as `evenkeel pools` shows it
    endpoint: String,
    #[command(flatten)]
    pool: OnlyPool,
    /// Reason for the change log; at most 256 bytes
    #[arg(long, default_value = "", hide_default_value = true)]
    note: String,
    #[command(flatten)]
    ask: Ask,
}

/// End the drain of an endpoint.
#[derive(Args)]
pub(crate) struct Undrain {
    /// Address of the endpoint, as `evenkeel drains` shows it
    endpoint: String,
    #[command(flatten)]
    pool: OnlyPool,
    #[command(flatten)]
    ask: Ask,
}

/// Show drained endpoints.
#[derive(Args)]
pub(crate) struct Drains {
    #[command(flatten)]
    ask: Ask,
}

impl Drain {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let Self { endpoint, pool, note, ask } = self;
        let (route, cluster) = pool.names();
        let request = pb::DrainEndpointRequest { endpoint, route, cluster, note };
        let drain = ask.admin().await?.drain_endpoint(request).await;
        ask.output
            .one(&drain.map_err(failed("drain the endpoint (`evenkeel pools` lists all)"))?.into_inner())
    }
}

impl Undrain {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let Self { endpoint, pool, ask } = self;
        let (route, cluster) = pool.names();
        let undrain = pb::UndrainEndpointRequest { endpoint, route, cluster };
        let request = undrain.clone();
        let done = ask.admin().await?.undrain_endpoint(request).await;
        done.map_err(failed("undrain the endpoint (`evenkeel drains` lists those drained)"))?;
        ask.output.one(&undrain)
    }
}

impl Drains {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let answer = self.ask.admin().await?.list_drains(pb::ListDrainsRequest {}).await;
        let answer = answer.map_err(failed("list the drains"))?.into_inner();
        self.ask.output.list(&answer.drains, &answer)
    }
}

impl Item for pb::Drain {
    const COLUMNS: &'static [Column<Self>] = &[
        text("endpoint", "ENDPOINT", |d| d.endpoint.clone()),
        csv_only("pool.route"),
        csv_only("pool.cluster"),
        text("", "POOL", |d| pool_text(d.pool.as_ref(), EVERY_POOL)),
        text("at_ms", "SINCE", |d| time(d.at_ms)),
        text("who", "WHO", |d| or_dash(&d.who)),
        text("note", "NOTE", |d| d.note.clone()),
    ];
}

impl Item for pb::UndrainEndpointRequest {
    const COLUMNS: &'static [Column<Self>] = &[
        text("endpoint", "UNDRAINED", |d| d.endpoint.clone()),
        text("route", "ROUTE", |d| or_dash(&d.route)),
        text("cluster", "CLUSTER", |d| or_dash(&d.cluster)),
    ];
}
