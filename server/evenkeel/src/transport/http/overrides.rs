//! Limits and their overrides as JSON.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State},
    http::{HeaderMap, StatusCode, Uri},
    response::IntoResponse as _,
    routing::{get, put},
};
use evenkeel_domain::limit::{Algorithm, Limit};
use evenkeel_engine::limiter::override_key::form_of_key;
use evenkeel_store::records::Override;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Http,
    administration::{Answer, BODY_BYTES_MAX, Failure, body, page_size, query, text, who},
};

type Shared = State<Arc<Http>>;

pub(super) fn routes() -> Router<Arc<Http>> {
    Router::new()
        .route("/api/v1/limits", get(limits))
        .route("/api/v1/overrides", get(list))
        .route("/api/v1/overrides/{limit}/{key}", put(set).delete(forget))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

/// The body of PUT.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Set {
    amount: Option<u64>,
    #[serde(default)]
    unlimited: bool,
    #[serde(default)]
    expires_at_ms: u64,
}

async fn limits(State(http): Shared) -> Json<Value> {
    let limits = http.administration.overrides.limits();
    let limits: Vec<Value> = limits.iter().map(|limit| encode_limit(limit)).collect();
    Json(json!({"limits": limits}))
}

async fn list(State(http): Shared, uri: Uri) -> Answer {
    let parameters = query(&uri, &["limit", "page_size", "page_token"])?;
    let of = |name| text(&parameters, name);
    let page =
        http.administration.overrides.list(of("limit"), page_size(&parameters)?, of("page_token")).await;
    let (page, next_page_token) = page?;
    let overrides: Vec<Value> = page.iter().map(encode).collect();
    Ok(Json(json!({"overrides": overrides, "next_page_token": next_page_token})).into_response())
}

async fn set(
    State(http): Shared,
    Path((limit, key)): Path<(String, String)>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Answer {
    let who = who(&http.administration.admins, &headers)?;
    let Set { amount, unlimited, expires_at_ms } = body(&headers, &bytes)?;
    if amount.is_some() == unlimited {
        let got = if unlimited { "both" } else { "neither" };
        let expected = "given, or unlimited: true";
        return Err(Failure::of_field(StatusCode::BAD_REQUEST, "amount", expected, got));
    }
    let expires_at_ms = Some(expires_at_ms).filter(|at| *at > 0);
    let new = Override { limit, key, amount, expires_at_ms, who, at_ms: 0 };
    let set = http.administration.overrides.set(new).await?;
    Ok(Json(encode(&set)).into_response())
}

async fn forget(
    State(http): Shared,
    Path((limit, key)): Path<(String, String)>,
    headers: HeaderMap,
) -> Answer {
    let who = who(&http.administration.admins, &headers)?;
    http.administration.overrides.delete(&limit, &key, &who).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn encode(set: &Override) -> Value {
    json!({
        "limit": set.limit,
        "key": set.key,
        "amount": set.amount,
        "unlimited": set.amount.is_none(),
        "expires_at_ms": set.expires_at_ms.unwrap_or(0),
        "who": set.who,
        "at_ms": set.at_ms,
    })
}

fn encode_limit(limit: &Limit) -> Value {
    let (algorithm, burst) = match limit.algorithm {
        Algorithm::FixedWindow => ("fixed_window", None),
        Algorithm::SlidingWindow => ("sliding_window", None),
        Algorithm::TokenBucket { burst } => ("token_bucket", Some(burst)),
        Algorithm::Concurrency => ("concurrency", None),
    };
    json!({
        "name": *limit.name,
        "counts": limit.counts,
        "algorithm": algorithm,
        "amount": limit.amount,
        "burst": burst,
        "per": (algorithm != "concurrency").then(|| limit.period.to_string()),
        "key": limit.key.attributes().iter().map(ToString::to_string).collect::<Vec<_>>(),
        "form_of_key": form_of_key(limit),
        "shadow": limit.shadow,
    })
}
