//! What all sidecars told, as JSON.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State},
    http::Uri,
    response::IntoResponse as _,
    routing::get,
};
use evenkeel_domain::{
    DomainError,
    activity::{AdmitResult, FullestKey, Refused, Repair, SidecarStatus},
    page::page_size_of,
};
use evenkeel_engine::activity::{BurnRate, Steps};
use serde_json::{Map, Value, json};

use super::{Shared, one_of, part};
use crate::transport::{
    capacity::{Capacity, Page},
    http::{
        Http,
        administration::{Answer, page_size, query, text},
    },
};

const MINUTE_MS: u64 = 60_000;
const SPANS: [(&str, u64); 5] = [
    ("15m", 15 * MINUTE_MS),
    ("1h", 60 * MINUTE_MS),
    ("6h", 360 * MINUTE_MS),
    ("24h", 1440 * MINUTE_MS),
    ("48h", 2880 * MINUTE_MS),
];

pub(super) fn routes() -> Router<Arc<Http>> {
    Router::new()
        .route("/api/v1/activity", get(activity))
        .route("/api/v1/limits/nearest", get(nearest))
        .route("/api/v1/quotas/burns", get(burns))
        .route("/api/v1/sidecars", get(sidecars))
        .route("/api/v1/repairs", get(repairs))
        .route("/api/v1/refusals", get(refusals))
        .route("/api/v1/refusals/{request_id}", get(refusal))
}

async fn activity(State(http): Shared, uri: Uri) -> Answer {
    let parameters = query(&uri, &["span", "route", "cluster"])?;
    let span_ms = one_of(&parameters, "span", &SPANS)?;
    let (route, cluster) = (text(&parameters, "route"), text(&parameters, "cluster"));
    let capacity = &http.capacity;
    // As it is listed, also where it is given as a gateway calls it.
    let entry = if cluster.is_empty() { None } else { Some(capacity.pool(route, cluster)?) };
    let pool = entry.as_ref().map(|entry| (entry.pool.id.route(), entry.pool.id.cluster()));
    let Steps { step_ms, from_ms, counts } = capacity.told(capacity.history.steps(span_ms, pool)).await?;
    let series: Map<String, Value> = (AdmitResult::ALL.iter().enumerate())
        .map(|(i, result)| (result.name().to_owned(), counts.iter().map(|counts| counts[i]).collect()))
        .collect();
    let body = json!({"step_ms": step_ms, "from_ms": from_ms, "steps": counts.len(), "series": series});
    Ok(Json(body).into_response())
}

async fn nearest(State(http): Shared, uri: Uri) -> Answer {
    let parameters = query(&uri, &["limit", "search", "page_size", "page_token"])?;
    let page = http.capacity.nearest(text(&parameters, "limit"), &part(&parameters, 0)?).await?;
    let Page { rows, next_page_token, total } = page;
    let limits: Vec<Value> = rows.iter().map(|row| encode_nearest(&http.capacity, row)).collect();
    Ok(Json(json!({"limits": limits, "next_page_token": next_page_token, "total": total})).into_response())
}

async fn burns(State(http): Shared, uri: Uri) -> Answer {
    let parameters = query(&uri, &["quota", "search", "page_size", "page_token"])?;
    let page = http.capacity.burns(text(&parameters, "quota"), &part(&parameters, 0)?).await?;
    let Page { rows, next_page_token, total } = page;
    let burns: Vec<Value> = rows.iter().map(|row| encode_burn(&http.capacity, row)).collect();
    Ok(Json(json!({"burns": burns, "next_page_token": next_page_token, "total": total})).into_response())
}

async fn sidecars(State(http): Shared) -> Answer {
    let capacity: &Capacity = &http.capacity;
    let sidecars = capacity.told(capacity.history.sidecars()).await?;
    let sidecars: Vec<Value> =
        sidecars.iter().map(|(status, alive)| encode_sidecar(capacity, status, *alive)).collect();
    Ok(Json(json!({"sidecars": sidecars})).into_response())
}

async fn repairs(State(http): Shared, uri: Uri) -> Answer {
    let most = page_size_of(page_size(&query(&uri, &["page_size"])?)?)?;
    let repairs = http.capacity.told(http.capacity.history.repairs(most)).await?;
    let repairs: Vec<Value> = repairs.iter().map(encode_repair).collect();
    Ok(Json(json!({"repairs": repairs})).into_response())
}

async fn refusals(State(http): Shared, uri: Uri) -> Answer {
    let parameters = query(&uri, &["consumer", "page_size"])?;
    let most = page_size_of(page_size(&parameters)?)?;
    let refusals = http.capacity.history.refusals(text(&parameters, "consumer"), most);
    let refusals: Vec<Value> = http.capacity.told(refusals).await?.iter().map(encode_refusal).collect();
    Ok(Json(json!({"refusals": refusals})).into_response())
}

async fn refusal(State(http): Shared, Path(request_id): Path<String>) -> Answer {
    let refused = http.capacity.told(http.capacity.history.refusal(&request_id)).await?;
    let refused = refused.ok_or_else(|| DomainError::not_recorded(&request_id))?;
    Ok(Json(encode_refusal(&refused)).into_response())
}

fn encode_nearest(capacity: &Capacity, nearest: &FullestKey) -> Value {
    json!({
        "limit": nearest.limit,
        "key": nearest.key(),
        "amount": nearest.amount,
        "used": nearest.used,
        "share": nearest.share(),
        "reset_at_ms": nearest.reset_at_ms,
        "shadow": nearest.shadow,
        "seen_at_ms": nearest.seen_at_ms,
        "counts": capacity.limit_counts(&nearest.limit),
    })
}

fn encode_burn(capacity: &Capacity, burn: &BurnRate) -> Value {
    json!({
        "quota": burn.quota,
        "consumer": burn.consumer,
        "balance": burn.balance,
        "amount": burn.amount,
        "burn_per_hour": burn.burn_per_hour,
        "runs_out_at_ms": burn.runs_out_at_ms,
        "reset_at_ms": burn.reset_at_ms,
        "seen_at_ms": burn.seen_at_ms,
        "counts": capacity.quota_counts(&burn.quota),
    })
}

fn encode_sidecar(capacity: &Capacity, status: &SidecarStatus, alive: bool) -> Value {
    json!({
        "id": status.id,
        "name": status.name,
        "version": status.version,
        "started_at_ms": status.started_at_ms,
        "seen_at_ms": status.seen_at_ms,
        "alive": alive,
        "draining": status.draining,
        "store": status.store,
        "store_up": capacity.reaches_store(status, alive),
        "store_losses": status.store_losses,
        "holders": status.holders,
        "admitted": status.admitted,
        "refused": status.refused,
        "limits_revision": status.limits_revision,
    })
}

fn encode_repair(repair: &Repair) -> Value {
    json!({
        "at_ms": repair.at_ms,
        "kind": repair.kind.name(),
        "pool": {"route": repair.route, "cluster": repair.cluster},
        "holder": repair.holder,
        "count": repair.count,
        "sidecar": repair.sidecar,
    })
}

fn encode_refusal(refused: &Refused) -> Value {
    json!({
        "request_id": refused.request_id,
        "at_ms": refused.at_ms,
        "pool": {"route": refused.route, "cluster": refused.cluster},
        "reason": refused.reason.name(),
        "why": refused.why,
        "status": refused.status,
        "retry_after_ms": refused.retry_after_ms,
        "consumer": refused.consumer,
        "model": refused.model,
        "limit": refused.limit,
        "key": refused.key,
        "amount": refused.amount,
        "used": refused.used,
        "cost": refused.cost,
        "sidecar": refused.sidecar,
    })
}
