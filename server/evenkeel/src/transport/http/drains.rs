//! Draining endpoints, and what administrators have changed, as JSON.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, Uri},
    response::IntoResponse as _,
    routing::get,
};
use evenkeel_store::{changes::AdminChange, drains::Drain};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Http,
    administration::{Answer, BODY_BYTES_MAX, body, page_size, query, text, who},
};

type Shared = State<Arc<Http>>;

pub(super) fn routes() -> Router<Arc<Http>> {
    Router::new()
        .route("/api/v1/drains", get(list).post(drain).delete(undrain))
        .route("/api/v1/changes", get(changes))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

/// The body of POST.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    endpoint: String,
    #[serde(default)]
    route: String,
    #[serde(default)]
    cluster: String,
    #[serde(default)]
    note: String,
}

async fn list(State(http): Shared) -> Answer {
    let drains = http.administration.drains.list().await?;
    let drains: Vec<Value> = drains.iter().map(encode).collect();
    Ok(Json(json!({"drains": drains})).into_response())
}

async fn drain(State(http): Shared, headers: HeaderMap, bytes: Bytes) -> Answer {
    let who = who(&http.administration.admins, &headers)?;
    let Wanted { endpoint, route, cluster, note } = body(&headers, &bytes)?;
    let drained = http.administration.drains.drain(&endpoint, pool(&route, &cluster), &note, &who).await?;
    Ok(Json(encode(&drained)).into_response())
}

async fn undrain(State(http): Shared, uri: Uri, headers: HeaderMap) -> Answer {
    let who = who(&http.administration.admins, &headers)?;
    let parameters = query(&uri, &["endpoint", "route", "cluster"])?;
    let of = |name| text(&parameters, name);
    let pool = pool(of("route"), of("cluster"));
    http.administration.drains.undrain(of("endpoint"), pool, &who).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn changes(State(http): Shared, uri: Uri) -> Answer {
    let parameters = query(&uri, &["page_size"])?;
    let changes = http.administration.change_log.list(page_size(&parameters)?).await?;
    let changes: Vec<Value> = changes.iter().map(encode_change).collect();
    Ok(Json(json!({"changes": changes})).into_response())
}

/// Without route and cluster every pool is meant.
fn pool<'a>(route: &'a str, cluster: &'a str) -> Option<(&'a str, &'a str)> {
    (!route.is_empty() || !cluster.is_empty()).then_some((route, cluster))
}

fn encode(drain: &Drain) -> Value {
    let pool = drain.pool.as_ref();
    json!({
        "endpoint": drain.endpoint,
        "pool": pool.map(|pool| json!({"route": pool.route(), "cluster": pool.cluster()})),
        "note": drain.note,
        "who": drain.who,
        "at_ms": drain.at_ms,
    })
}

fn encode_change(change: &AdminChange) -> Value {
    json!({
        "at_ms": change.at_ms,
        "who": change.who,
        "what": change.what,
        "target": change.target,
        "before": change.before,
        "after": change.after,
        "note": change.note,
    })
}
