//! `evenkeel pools`, `holders` and `leases`.

use clap::Args;
use evenkeel_proto::v1::{self as pb, inspect_client::InspectClient};
use serde::Serialize;

use super::{
    connect::{Ask, OnlyPool, PoolArgs, SidecarChannel},
    exit::failed,
    list::{Search, pages, print},
    output::{Column, Item, count_or_dash, csv_only, number, or_dash, percent, text},
};

/// Text that tables show as the route of a pool that all routes of a cluster share.
pub(super) const ALL_ROUTES: &str = "(all)";

/// Show pools.
#[derive(Args)]
pub(crate) struct Pools {
    #[command(flatten)]
    pool: OnlyPool,
    #[command(flatten)]
    ask: Ask,
}

/// Show holders.
#[derive(Args)]
pub(crate) struct Holders {
    #[command(flatten)]
    pool: PoolArgs,
    #[command(flatten)]
    list: Search,
    #[command(flatten)]
    ask: Ask,
}

/// Show leases.
#[derive(Args)]
pub(crate) struct Leases {
    #[command(flatten)]
    pool: PoolArgs,
    /// Show only leases of this holder
    #[arg(long, default_value = "", hide_default_value = true)]
    holder: String,
    #[command(flatten)]
    list: Search,
    #[command(flatten)]
    ask: Ask,
}

impl Pools {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let pools = list(self.ask.inspect().await?, &self.pool).await?;
        self.ask.output.list(&lines(&pools.pools), &pools)
    }
}

/// Reads one pool, or all pages of the list of pools.
pub(super) async fn list(
    mut client: InspectClient<SidecarChannel>,
    only: &OnlyPool,
) -> anyhow::Result<pb::ListPoolsResponse> {
    if only.encode().is_none() {
        let request = pb::ListPoolsRequest::default();
        return Ok(pages!(client, list_pools, request, pools, 0, "list the pools"));
    }
    let (route, cluster) = only.names();
    let answer = client.get_pool(pb::GetPoolRequest { route, cluster }).await;
    let pool = answer.map_err(failed(SHOW_POOL))?.into_inner();
    Ok(pb::ListPoolsResponse { pools: vec![pool], total: 1, ..pb::ListPoolsResponse::default() })
}

const SHOW_POOL: &str = "show the pool (`evenkeel pools` lists all)";

/// A line of output: an endpoint of a pool, or a pool without endpoints.
#[derive(Serialize)]
pub(super) struct Line {
    cluster: String,
    route: String,
    current: bool,
    #[serde(flatten)]
    endpoint: Option<pb::EndpointState>,
}

/// Returns the lines of pools for a table or CSV.
pub(super) fn lines(pools: &[pb::PoolState]) -> Vec<Line> {
    let of_pool = |pool: &pb::PoolState| {
        let endpoints = pool.endpoints.iter().cloned().map(Some);
        let none = pool.endpoints.is_empty().then_some(None);
        let (cluster, route, current) = (pool.cluster.clone(), pool.route.clone(), pool.current);
        endpoints
            .chain(none)
            .map(move |endpoint| Line { cluster: cluster.clone(), route: route.clone(), current, endpoint })
            .collect::<Vec<_>>()
    };
    pools.iter().flat_map(of_pool).collect()
}

impl Line {
    fn figure(&self, of: fn(&pb::EndpointState) -> String) -> String {
        self.endpoint.as_ref().map_or_else(|| "-".to_owned(), of)
    }

    fn state(&self) -> String {
        let mut marks = self.endpoint.as_ref().map_or_else(|| vec!["no endpoints known"], marks);
        if !self.current {
            marks.push("store down: last figures seen");
        }
        marks.join(", ")
    }
}

impl Item for Line {
    const COLUMNS: &'static [Column<Self>] = &[
        text("cluster", "CLUSTER", |l| l.cluster.clone()),
        text("route", "ROUTE", |l| if l.route.is_empty() { ALL_ROUTES } else { &l.route }.to_owned()),
        text("address", "ENDPOINT", |l| l.figure(|e| e.address.clone())),
        number("in_flight", "IN-FLIGHT", |l| l.figure(|e| e.in_flight.to_string())),
        number("unread_tokens", "UNREAD", |l: &Self| l.figure(|e| count_or_dash(e.unread_tokens))).if_any(),
        number("hit_rate", "HITS", |l: &Self| {
            l.figure(|e| e.hit_rate.map_or_else(|| "-".to_owned(), percent))
        })
        .if_any(),
        csv_only("expected_hit_rate"),
        number("cap", "CAP", |l| l.figure(|e| if e.cap == 0 { "-".to_owned() } else { e.cap.to_string() })),
        number("weight", "WEIGHT", |l| l.figure(|e| e.weight.to_string())),
        csv_only("listed"),
        csv_only("drained"),
        csv_only("current"),
        text("", "STATE", Line::state),
    ];
}

/// Returns the states of an endpoint that tables mark: drained, or no longer in the pool.
pub(super) fn marks(endpoint: &pb::EndpointState) -> Vec<&'static str> {
    let marks = [(endpoint.drained, "drained"), (!endpoint.listed, "left the pool")];
    marks.into_iter().filter(|(is, _)| *is).map(|(_, mark)| mark).collect()
}

/// Formats a pool's identity for people: `cluster`, or `route/cluster`.
pub(super) fn pool_text(pool: Option<&pb::Pool>, none: &str) -> String {
    match pool {
        None => none.to_owned(),
        Some(pool) if pool.route.is_empty() => or_dash(&pool.cluster),
        Some(pool) => format!("{}/{}", pool.route, pool.cluster),
    }
}

impl Holders {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let pb::Pool { route, cluster } = self.pool.encode();
        let Self { list: Search { search, rows }, ask, .. } = self;
        let request = pb::ListHoldersRequest { route, cluster, search, ..pb::ListHoldersRequest::default() };
        let (client, limit) = (ask.inspect().await?, rows.limit(ask.output));
        let answer = pages!(client, list_holders, request, holders, limit, SHOW_POOL);
        print(ask.output, &answer.holders, &answer.next_page_token, &answer)
    }
}

fn seconds(ms: f64) -> String {
    format!("{:.1}s", ms / 1000.0)
}

impl Item for pb::HolderState {
    const COLUMNS: &'static [Column<Self>] = &[
        text("holder", "HOLDER", |h| h.holder.clone()),
        number("leases", "LEASES", |h| h.leases.to_string()),
        number("deadline_in_ms", "DEAD-IN", |h| seconds(h.deadline_in_ms as f64)),
    ];
}

impl Leases {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let pb::Pool { route, cluster } = self.pool.encode();
        let Self { holder, list: Search { search, rows }, ask, .. } = self;
        let request =
            pb::ListLeasesRequest { route, cluster, holder, search, ..pb::ListLeasesRequest::default() };
        let (client, limit) = (ask.inspect().await?, rows.limit(ask.output));
        let answer = pages!(client, list_leases, request, leases, limit, SHOW_POOL);
        print(ask.output, &answer.leases, &answer.next_page_token, &answer)
    }
}

impl Item for pb::LeaseState {
    const COLUMNS: &'static [Column<Self>] = &[
        text("holder", "HOLDER", |l| l.holder.clone()),
        number("lease", "LEASE", |l| l.lease.to_string()),
        text("endpoint", "ENDPOINT", |l| l.endpoint.clone()),
        number("age_ms", "AGE", |l| seconds(l.age_ms as f64)),
        number("unread_tokens", "UNREAD", |l: &Self| count_or_dash(l.unread_tokens)).if_any(),
    ];
}
