//! What the capacity page shows, as JSON: pools and endpoints now, and what all sidecars told.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, Uri},
    response::IntoResponse as _,
    routing::get,
};
use evenkeel_domain::{DomainError, page::page_size_of};
use serde_json::{Value, json};

use super::{
    Http,
    administration::{Answer, Failure, page_size, query, text},
};
use crate::transport::capacity::{EndpointSort, Page, Part, PoolSort};

mod told;
mod watch;

type Shared = State<Arc<Http>>;
type Parameters = HashMap<&'static str, String>;

/// Endpoints on a page where the query does not say.
const ENDPOINTS: usize = 50;
const POOL_SORTS: [(&str, PoolSort); 4] = [
    ("in_flight", PoolSort::InFlight),
    ("name", PoolSort::Name),
    ("room", PoolSort::Room),
    ("imbalance", PoolSort::Imbalance),
];
const ENDPOINT_SORTS: [(&str, EndpointSort); 4] = [
    ("load", EndpointSort::Load),
    ("in_flight", EndpointSort::InFlight),
    ("address", EndpointSort::Address),
    ("room", EndpointSort::Room),
];

pub(super) fn routes() -> Router<Arc<Http>> {
    Router::new()
        .route("/api/v1/overview", get(overview))
        .route("/api/v1/endpoints", get(endpoints))
        .route("/api/v1/holders", get(holders))
        .route("/api/v1/watch", get(watch::watch))
        .merge(told::routes())
}

async fn overview(State(http): Shared, uri: Uri) -> Answer {
    let parameters = query(&uri, &["sort", "search", "page_size", "page_token"])?;
    let sort = one_of(&parameters, "sort", &POOL_SORTS)?;
    let overview = http.capacity.overview(sort, &part(&parameters, 0)?).await?;
    Ok(Json(overview).into_response())
}

async fn endpoints(State(http): Shared, uri: Uri) -> Answer {
    let known = ["route", "cluster", "sort", "search", "page_size", "page_token"];
    Ok(Json(page_of_endpoints(&http, &query(&uri, &known)?)?).into_response())
}

fn page_of_endpoints(http: &Http, parameters: &Parameters) -> Result<Value, Failure> {
    let (route, cluster) = pool_of(parameters)?;
    let sort = one_of(parameters, "sort", &ENDPOINT_SORTS)?;
    let (pool, page) = http.capacity.endpoints(route, cluster, sort, &part(parameters, ENDPOINTS)?)?;
    let Page { rows, next_page_token, total } = page;
    Ok(json!({"pool": pool, "endpoints": rows, "next_page_token": next_page_token, "total": total}))
}

async fn holders(State(http): Shared, uri: Uri) -> Answer {
    let parameters = query(&uri, &["route", "cluster", "search", "page_size", "page_token"])?;
    let (route, cluster) = pool_of(&parameters)?;
    let capacity = &http.capacity;
    let entry = capacity.pool(route, cluster)?;
    let table = capacity.balancer.store.table(&entry.pool).await;
    let (table, _) = table.map_err(DomainError::store("reading a pool's table"))?;
    let part = part(&parameters, 0)?;
    let wanted = table.holders.iter().filter(|(holder, _)| holder.as_str().contains(&part.search)).collect();
    let Page { rows, next_page_token, total } = part.of(wanted)?;
    let mut holders = Vec::with_capacity(rows.len());
    for (holder, deadline) in rows {
        let leases = capacity.balancer.store.leases(&entry.pool, holder).await;
        let leases = leases.map_err(DomainError::store("reading a holder's leases"))?.len();
        let deadline_in_ms = *deadline as i64 - table.now_ms as i64;
        holders.push(json!({"holder": holder.as_str(), "leases": leases, "deadline_in_ms": deadline_in_ms}));
    }
    Ok(Json(json!({"holders": holders, "next_page_token": next_page_token, "total": total})).into_response())
}

/// Route and cluster, of which the cluster has to be given.
fn pool_of(parameters: &Parameters) -> Result<(&str, &str), Failure> {
    let cluster = text(parameters, "cluster");
    if cluster.is_empty() {
        let status = StatusCode::BAD_REQUEST;
        return Err(Failure::of_field(status, "cluster", "the name of a pool's cluster", "none"));
    }
    Ok((text(parameters, "route"), cluster))
}

/// The part of a list that is asked for; `default` rows where the query does not say, or 100.
fn part(parameters: &Parameters, default: usize) -> Result<Part, Failure> {
    let size = match page_size(parameters)? {
        0 if default > 0 => default,
        size => page_size_of(size)?,
    };
    let of = |name| text(parameters, name).to_owned();
    Ok(Part { search: of("search"), size, token: of("page_token") })
}

/// A parameter that is one of some words, the first where it is not given.
fn one_of<T: Copy>(parameters: &Parameters, name: &str, words: &[(&str, T)]) -> Result<T, Failure> {
    let got = text(parameters, name);
    let found = words.iter().find(|(word, _)| *word == got || got.is_empty());
    found.map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let got = format!("{:?}", got.chars().take(64).collect::<String>());
        Failure::of_field(StatusCode::BAD_REQUEST, name, &format!("one of {}", known.join(", ")), &got)
    })
}
