//! The HTTP server: the API as JSON, metrics, health, and the capacity page.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use evenkeel_api::Api;
use evenkeel_engine::admission::Unverified;
use evenkeel_telemetry::Metrics;
use serde_json::json;
use tokio_util::sync::CancellationToken;

mod bounds;
mod host;
mod latency_series;
mod page;
mod reply;
mod request;
mod routes;
mod series;
mod serve;
mod usage;
mod watch;

pub(crate) use reply::Failure;
pub use routes::ROUTES;
pub use serve::serve;

use super::memory::MemoryBudget;

/// Shared state of the handlers.
pub struct Http {
    pub api: Arc<Api>,
    /// Settlements that wait for the keys of tickets.
    pub unverified: Arc<Unverified>,
    /// Exported at `/metrics`.
    pub metrics: Arc<Metrics>,
    /// Ends the watches, which would otherwise delay the shutdown.
    pub stop: CancellationToken,
    /// Memory that responses take until clients have read them.
    pub memory: Arc<MemoryBudget>,
    /// Names under which clients may call this server, apart from IP addresses and `localhost`.
    pub hosts: Vec<String>,
}

/// Returns all routes. `check_roles` puts the check of a caller's role before them, after the check of the request's host.
pub fn router(http: Arc<Http>, check_roles: impl FnOnce(Router<Arc<Http>>) -> Router<Arc<Http>>) -> Router {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .merge(routes::routes())
        .merge(page::routes())
        .layer(middleware::from_fn(reply::json_errors));
    check_roles(router)
        .layer(middleware::from_fn_with_state(Arc::clone(&http), host::check))
        .layer(middleware::from_fn_with_state(Arc::clone(&http), bounds::bound))
        .with_state(http)
}

/// Reports readiness. The sidecar is ready even while the store is down: it then answers by each pool's policy, which
/// serves a gateway better than no answer.
async fn readyz(State(http): State<Arc<Http>>) -> Response {
    let stopping = http.api.balancer.recorder.is_stopping();
    let status = if stopping { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (status, Json(json!({"ready": !stopping, "store_up": http.api.balancer.store.is_up()}))).into_response()
}

async fn metrics(State(http): State<Arc<Http>>) -> Response {
    match http.metrics.encode(|metrics| {
        series::set_pools(
            &metrics.pools,
            &metrics.prefixes,
            &http.api.views.all(),
            &http.api.balancer.directory.all(),
        );
        metrics.table_age.set(http.api.views.age().as_secs_f64());
        metrics.limits.set_usage(&http.api.limiter.fullest());
        let waiting = http.api.balancer.store.settlements_waiting() + http.unverified.len();
        metrics.settlements_waiting.set(waiting as i64);
        metrics.ledger.waiting.set(http.api.ledger.waiting() as i64);
        metrics.gateways.unlimited.set(http.api.balancer.recorder.gateways.unlimited() as i64);
        metrics.overrides.set(http.api.overrides.current().load().len() as i64);
        let (views, pools) = (http.api.views.all(), http.api.balancer.directory.all());
        latency_series::set_latencies(&metrics.latency, &views, pools);
    }) {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
