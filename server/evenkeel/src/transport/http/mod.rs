//! HTTP: metrics, health, the JSON of pools, and the page.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

mod administration;
mod capacity;
mod drains;
mod overrides;
mod page;
mod quotas;
mod usage;

use evenkeel_engine::ledger::Ledger;
use evenkeel_telemetry::{Metrics, PoolMetrics};

use crate::transport::{administration::Administration, capacity::Capacity};

/// What the handlers need.
pub struct Http {
    /// For pools, and what has happened.
    pub capacity: Arc<Capacity>,
    /// For limits and quotas.
    pub administration: Arc<Administration>,
    /// For usage.
    pub ledger: Arc<Ledger>,
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// Room for watches.
    pub watchers: Arc<Semaphore>,
    /// Ends the watches, which would otherwise hold up a drain.
    pub stop: CancellationToken,
}

/// Most watches at once.
const WATCHERS_MAX: usize = 1000;

/// Room for watches.
#[must_use]
pub fn watchers() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(WATCHERS_MAX))
}

/// All paths.
pub fn router(http: Arc<Http>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/api/v1/pools", get(pools))
        .merge(capacity::routes())
        .merge(page::routes())
        .merge(quotas::routes())
        .merge(overrides::routes())
        .merge(drains::routes())
        .merge(usage::routes())
        .layer(middleware::from_fn(json_errors))
        .with_state(http)
}

/// Errors that no handler of the API answers: unknown paths and methods, bodies that are too large.
async fn json_errors(request: Request, next: Next) -> Response {
    let is_api = request.uri().path().starts_with("/api/");
    let response = next.run(request).await;
    let status = response.status();
    let is_json = |value: &HeaderValue| value.as_bytes().starts_with(b"application/json");
    let is_error = status.is_client_error() || status.is_server_error();
    if !is_api || !is_error || response.headers().get(header::CONTENT_TYPE).is_some_and(is_json) {
        return response;
    }
    let message = status.canonical_reason().unwrap_or("error").to_lowercase();
    let body = json!({"error": {"status": status.as_u16(), "message": message}});
    let mut answer = (status, Json(body)).into_response();
    if let Some(methods) = response.headers().get(header::ALLOW) {
        answer.headers_mut().insert(header::ALLOW, methods.clone());
    }
    answer
}

/// Ready also while the store is away: the sidecar then answers by its stated policy, and a gateway that
/// stopped asking would be worse off.
async fn readyz(State(http): State<Arc<Http>>) -> Response {
    let draining = http.capacity.balancer.recorder.is_stopping();
    let status = if draining { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (status, Json(json!({"ready": !draining, "store_up": http.capacity.balancer.store.is_up()})))
        .into_response()
}

async fn pools(State(http): State<Arc<Http>>) -> Response {
    let views = http.capacity.views.all();
    let pools: Vec<_> = views.values().map(|view| &**view).collect();
    let body = json!({
        "store_up": http.capacity.balancer.store.is_up(),
        "age_ms": http.capacity.views.age().as_millis() as u64,
        "pools": pools,
    });
    Json(body).into_response()
}

async fn metrics(State(http): State<Arc<Http>>) -> Response {
    match http.metrics.encode(|metrics| {
        set_pools(&metrics.pools, &http);
        metrics.table_age.set(http.capacity.views.age().as_secs_f64());
        metrics.limits.set_usage(&http.capacity.limiter.fullest());
        metrics.settlements_waiting.set(http.capacity.balancer.store.settlements_waiting() as i64);
        metrics.ledger.waiting.set(http.ledger.waiting() as i64);
        metrics.overrides.set(http.administration.overrides.current().load().len() as i64);
    }) {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Sets what is known of pools at each scrape: tables as of the last sweep, and counts as of now.
fn set_pools(m: &PoolMetrics, http: &Http) {
    m.clear();
    for view in http.capacity.views.all().values() {
        let pool = [view.route.as_str(), view.cluster.as_str()];
        m.holders.with_label_values(&pool).set(view.holders as f64);
        m.imbalance.with_label_values(&pool).set(view.imbalance);
        if let Some(capacity) = view.capacity {
            m.capacity.with_label_values(&pool).set(capacity as f64);
        }
        let [mut in_use, mut drained, mut left] = [0_u32; 3];
        for endpoint in &view.endpoints {
            let labels = [pool[0], pool[1], &endpoint.address];
            m.in_flight.with_label_values(&labels).set(endpoint.in_flight as f64);
            m.endpoint_cap.with_label_values(&labels).set(f64::from(endpoint.cap));
            m.endpoint_weight.with_label_values(&labels).set(endpoint.weight);
            *match (endpoint.listed, endpoint.drained) {
                (false, _) => &mut left,
                (true, true) => &mut drained,
                (true, false) => &mut in_use,
            } += 1;
        }
        for (state, count) in [("in_use", in_use), ("drained", drained), ("left", left)] {
            m.endpoints.with_label_values(&[pool[0], pool[1], state]).set(f64::from(count));
        }
    }
    for entry in http.capacity.balancer.directory.all() {
        m.set_counts(entry.pool.id.route(), entry.pool.id.cluster(), &entry.counts);
    }
}
