//! Quotas as JSON.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State},
    http::{HeaderMap, StatusCode, Uri},
    response::IntoResponse as _,
    routing::{get, post},
};
use evenkeel_engine::limiter::quotas::{QuotaEdit, QuotaView};
use evenkeel_store::records::{Action, Change};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Http,
    administration::{Answer, BODY_BYTES_MAX, body, page_size, query, text, who},
};

type Shared = State<Arc<Http>>;
type Account = Path<(String, String)>;

pub(super) fn routes() -> Router<Arc<Http>> {
    Router::new()
        .route("/api/v1/quotas", get(list))
        .route("/api/v1/quotas/{quota}/{consumer}", get(one).put(set).delete(forget))
        .route("/api/v1/quotas/{quota}/{consumer}/adjust", post(adjust))
        .route("/api/v1/quotas/{quota}/{consumer}/changes", get(changes))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

/// The body of PUT.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Set {
    amount: u64,
    #[serde(default)]
    note: String,
}

/// The body of POST …/adjust.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Adjust {
    delta: i64,
    #[serde(default)]
    note: String,
    #[serde(default)]
    request_id: String,
}

async fn list(State(http): Shared, uri: Uri) -> Answer {
    let parameters = query(&uri, &["quota", "prefix", "page_size", "page_token"])?;
    let of = |name| text(&parameters, name);
    let quotas = &http.administration.quotas;
    let page = quotas.list(of("quota"), of("prefix"), page_size(&parameters)?, of("page_token")).await;
    let (page, next_page_token) = page?;
    let quotas: Vec<Value> = page.iter().map(encode).collect();
    Ok(Json(json!({"quotas": quotas, "next_page_token": next_page_token})).into_response())
}

async fn one(State(http): Shared, Path((quota, consumer)): Account) -> Answer {
    let view = http.administration.quotas.get(&quota, &consumer).await?;
    Ok(Json(encode(&view)).into_response())
}

async fn set(
    State(http): Shared,
    Path((quota, consumer)): Account,
    headers: HeaderMap,
    bytes: Bytes,
) -> Answer {
    let who = who(&http.administration.admins, &headers)?;
    let Set { amount, note } = body(&headers, &bytes)?;
    let edit = QuotaEdit { action: Action::Set(amount), who, note, request_id: String::new() };
    let view = http.administration.quotas.edit(&quota, &consumer, edit).await?;
    Ok(Json(encode(&view)).into_response())
}

async fn adjust(
    State(http): Shared,
    Path((quota, consumer)): Account,
    headers: HeaderMap,
    bytes: Bytes,
) -> Answer {
    let who = who(&http.administration.admins, &headers)?;
    let Adjust { delta, note, request_id } = body(&headers, &bytes)?;
    let edit = QuotaEdit { action: Action::Adjust(delta), who, note, request_id };
    let view = http.administration.quotas.edit(&quota, &consumer, edit).await?;
    Ok(Json(encode(&view)).into_response())
}

async fn forget(State(http): Shared, Path((quota, consumer)): Account, headers: HeaderMap) -> Answer {
    let who = who(&http.administration.admins, &headers)?;
    let (note, request_id) = (String::new(), String::new());
    let edit = QuotaEdit { action: Action::Delete, who, note, request_id };
    http.administration.quotas.edit(&quota, &consumer, edit).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn changes(State(http): Shared, Path((quota, consumer)): Account) -> Answer {
    let changes = http.administration.quotas.changes(&quota, &consumer).await?;
    let changes: Vec<Value> = changes.iter().map(encode_change).collect();
    Ok(Json(json!({"changes": changes})).into_response())
}

fn encode(view: &QuotaView) -> Value {
    let record = &view.record;
    json!({
        "quota": *view.quota,
        "consumer": *view.consumer,
        "balance": record.balance,
        "reserved": record.reserved,
        "amount": record.amount,
        "used": record.used,
        "overrun": record.overrun,
        "reset_ms": record.reset_ms,
        "counts": view.counts,
        "recorded": record.recorded,
    })
}

fn encode_change(change: &Change) -> Value {
    let Change { at_ms, who, what, before, after, note } = change;
    json!({"at_ms": at_ms, "who": who, "what": what, "before": before, "after": after, "note": note})
}
