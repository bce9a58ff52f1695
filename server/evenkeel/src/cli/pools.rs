//! `evenkeel pools`, `holders` and `leases`: what is in flight where, and whose it is.

use clap::Args;
use evenkeel_proto::v1::{self as pb, inspect_client::InspectClient};
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::{
    connect::{Ask, OnlyPool, PoolArgs},
    exit::answered,
    output::{Column, Item, number, or_dash, text},
};

/// Shown for the route of a pool that all routes of a cluster share.
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
    ask: Ask,
}

/// Show leases.
#[derive(Args)]
pub(crate) struct Leases {
    #[command(flatten)]
    pool: PoolArgs,
    /// Only this holder's
    #[arg(long, default_value = "", hide_default_value = true)]
    holder: String,
    #[command(flatten)]
    ask: Ask,
}

impl Pools {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut client = self.ask.inspect().await?;
        let pools = match self.pool.encode() {
            None => all(&mut client).await?,
            pool => vec![client.get_pool(pb::GetPoolRequest { pool }).await.map_err(answered)?.into_inner()],
        };
        let lines: Vec<Line<'_>> = pools.iter().flat_map(lines).collect();
        self.ask.output.print(&lines, || json!({"pools": pools.iter().map(as_json).collect::<Vec<_>>()}))
    }
}

/// Every pool, over all pages.
pub(super) async fn all(client: &mut InspectClient<Channel>) -> anyhow::Result<Vec<pb::PoolState>> {
    let (mut pools, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = pb::ListPoolsRequest { page_size: 0, page_token };
        let page = client.list_pools(request).await.map_err(answered)?.into_inner();
        pools.extend(page.pools);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(pools);
        }
    }
}

/// An endpoint of a pool, or a pool that has none.
pub(super) struct Line<'a> {
    pool: &'a pb::PoolState,
    endpoint: Option<&'a pb::EndpointState>,
}

/// A pool as lines of a table or CSV.
pub(super) fn lines(pool: &pb::PoolState) -> Vec<Line<'_>> {
    if pool.endpoints.is_empty() {
        return vec![Line { pool, endpoint: None }];
    }
    pool.endpoints.iter().map(|endpoint| Line { pool, endpoint: Some(endpoint) }).collect()
}

impl Item for Line<'_> {
    const LIST: &'static str = "pools";
    const COLUMNS: &'static [Column] = &[
        text("cluster", "CLUSTER"),
        text("route", "ROUTE"),
        text("address", "ENDPOINT"),
        number("in_flight", "IN-FLIGHT"),
        number("cap", "CAP"),
        number("weight", "WEIGHT"),
        text("listed", ""),
        text("drained", ""),
        text("current", ""),
        text("", "STATE"),
    ];

    fn json(&self) -> Value {
        let (cluster, route) = name(self.pool);
        let mut line = self.endpoint.map_or_else(|| json!({}), endpoint_as_json);
        line["cluster"] = json!(cluster);
        line["route"] = json!(route);
        line["current"] = json!(self.pool.current);
        line
    }

    fn cells(&self) -> Vec<String> {
        let (cluster, route) = name(self.pool);
        let route = if route.is_empty() { ALL_ROUTES } else { route };
        let mut marks = self.endpoint.map_or_else(|| vec!["no endpoints known"], marks);
        if !self.pool.current {
            marks.push("store away: last figures seen");
        }
        let of =
            |figure: fn(&pb::EndpointState) -> String| self.endpoint.map_or_else(|| "-".to_owned(), figure);
        vec![
            cluster.to_owned(),
            route.to_owned(),
            of(|endpoint| endpoint.address.clone()),
            of(|endpoint| endpoint.in_flight.to_string()),
            of(|endpoint| if endpoint.cap == 0 { "-".to_owned() } else { endpoint.cap.to_string() }),
            of(|endpoint| endpoint.weight.to_string()),
            marks.join(", "),
        ]
    }
}

/// What is out of the ordinary about an endpoint.
pub(super) fn marks(endpoint: &pb::EndpointState) -> Vec<&'static str> {
    let marks = [(endpoint.drained, "drained"), (!endpoint.listed, "left the pool")];
    marks.into_iter().filter(|(is, _)| *is).map(|(_, mark)| mark).collect()
}

/// Cluster and route.
pub(super) fn name(state: &pb::PoolState) -> (&str, &str) {
    state.pool.as_ref().map_or(("", ""), |pool| (&pool.cluster, &pool.route))
}

/// A pool as the HTTP API has it.
pub(super) fn as_json(state: &pb::PoolState) -> Value {
    let (cluster, route) = name(state);
    json!({
        "route": route,
        "cluster": cluster,
        "in_flight": state.in_flight,
        "capacity": Some(state.capacity).filter(|capacity| *capacity > 0),
        "holders": state.holders,
        "read_at_ms": state.read_at_ms,
        "current": state.current,
        "imbalance": state.imbalance,
        "endpoints": state.endpoints.iter().map(endpoint_as_json).collect::<Vec<_>>(),
    })
}

fn endpoint_as_json(endpoint: &pb::EndpointState) -> Value {
    let pb::EndpointState { address, in_flight, weight, cap, listed, drained } = endpoint;
    json!({"address": address, "in_flight": in_flight, "weight": weight, "cap": cap, "listed": listed,
           "drained": drained})
}

/// A pool's identity, where an answer names one.
pub(super) fn pool_as_json(pool: Option<&pb::Pool>) -> Value {
    pool.map_or(Value::Null, |pool| json!({"route": pool.route, "cluster": pool.cluster}))
}

/// A pool's identity for people: `cluster`, or `route/cluster`.
pub(super) fn pool_text(pool: Option<&pb::Pool>, none: &str) -> String {
    match pool {
        None => none.to_owned(),
        Some(pool) if pool.route.is_empty() => or_dash(&pool.cluster),
        Some(pool) => format!("{}/{}", pool.route, pool.cluster),
    }
}

impl Holders {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let request = pb::ListHoldersRequest { pool: Some(self.pool.encode()) };
        let answer = self.ask.inspect().await?.list_holders(request).await;
        self.ask.output.list(&answer.map_err(answered)?.into_inner().holders)
    }
}

impl Item for pb::HolderState {
    const LIST: &'static str = "holders";
    const COLUMNS: &'static [Column] =
        &[text("holder", "HOLDER"), number("leases", "LEASES"), number("deadline_in_ms", "DEAD-IN")];

    fn json(&self) -> Value {
        json!({"holder": self.holder, "leases": self.leases, "deadline_in_ms": self.deadline_in_ms})
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.holder.clone(),
            self.leases.to_string(),
            format!("{:.1}s", self.deadline_in_ms as f64 / 1000.0),
        ]
    }
}

impl Leases {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut client = self.ask.inspect().await?;
        let (mut leases, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = pb::ListLeasesRequest {
                pool: Some(self.pool.encode()),
                holder: self.holder.clone(),
                page_size: 1000,
                page_token,
            };
            let page = client.list_leases(request).await.map_err(answered)?.into_inner();
            leases.extend(page.leases);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return self.ask.output.list(&leases);
            }
        }
    }
}

impl Item for pb::LeaseState {
    const LIST: &'static str = "leases";
    const COLUMNS: &'static [Column] = &[
        text("holder", "HOLDER"),
        number("lease", "LEASE"),
        text("endpoint", "ENDPOINT"),
        number("age_ms", "AGE"),
    ];

    fn json(&self) -> Value {
        json!({"holder": self.holder, "lease": self.lease, "endpoint": self.endpoint, "age_ms": self.age_ms})
    }

    fn cells(&self) -> Vec<String> {
        let age = format!("{:.1}s", self.age_ms as f64 / 1000.0);
        vec![self.holder.clone(), self.lease.to_string(), self.endpoint.clone(), age]
    }
}
