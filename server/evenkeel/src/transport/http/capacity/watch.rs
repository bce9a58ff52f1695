//! The overview, and one pool's endpoints, as server-sent events: at once, and then whenever a sweep has found a change.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{HeaderName, HeaderValue, StatusCode, Uri},
    response::{
        IntoResponse as _,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::stream;
use serde_json::Value;
use tokio::{
    sync::{OwnedSemaphorePermit, watch::Receiver},
    time::Instant,
};

use super::{Parameters, Shared, page_of_endpoints};
use crate::transport::{
    capacity::Overview,
    http::{
        Http,
        administration::{Answer, Failure, query, text},
    },
};

/// What has not changed is told again after this time.
const QUIET: Duration = Duration::from_secs(2);
/// Least time between two events.
const PACE: Duration = Duration::from_millis(250);
/// How long a browser waits before it connects again.
const RETRY: Duration = Duration::from_secs(1);

struct Watcher {
    http: Arc<Http>,
    parameters: Parameters,
    swept: Receiver<std::time::Instant>,
    told: Option<(Instant, Arc<Overview>, Option<Value>)>,
    waiting: Vec<Event>,
    /// Given back when the watch ends.
    _room: OwnedSemaphorePermit,
}

pub(super) async fn watch(State(http): Shared, uri: Uri) -> Answer {
    let known = ["route", "cluster", "sort", "search", "page_size", "page_token"];
    let parameters = query(&uri, &known)?;
    if !text(&parameters, "cluster").is_empty() {
        // Wrong parameters, or a pool nobody knows, are told at once.
        page_of_endpoints(&http, &parameters)?;
    }
    let room = Arc::clone(&http.watchers).try_acquire_owned().map_err(|_| {
        let (status, expected) = (StatusCode::SERVICE_UNAVAILABLE, "one of at most 1000 at a sidecar");
        Failure::of_field(status, "watch", expected, "one more")
    })?;
    let swept = http.capacity.views.subscribe();
    let watcher = Watcher { http, parameters, swept, told: None, waiting: Vec::new(), _room: room };
    let events = stream::unfold(watcher, |mut watcher| async move {
        let event = watcher.next().await?;
        Some((Ok::<_, Infallible>(event), watcher))
    });
    let keep_alive = KeepAlive::new().interval(Duration::from_secs(15));
    // Proxies such as nginx would gather events otherwise.
    let headers = [(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"))];
    Ok((headers, Sse::new(events).keep_alive(keep_alive)).into_response())
}

impl Watcher {
    /// The next event; `None` when the sidecar ends.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.waiting.pop() {
                return Some(event);
            }
            if let Some((at, ..)) = &self.told {
                // Who watches is to go over to another sidecar, if there is one.
                if self.http.capacity.balancer.recorder.is_stopping() {
                    return None;
                }
                let next = *at + PACE;
                let stop = self.http.stop.clone();
                tokio::select! {
                    swept = async { tokio::time::sleep_until(next).await; self.wait_for_sweep().await } => swept?,
                    () = stop.cancelled() => return None,
                }
            }
            let overview = self.http.capacity.watched().await.ok()?;
            let is_pool = !text(&self.parameters, "cluster").is_empty();
            // A pool that has gone meanwhile may come back.
            let endpoints = if is_pool { page_of_endpoints(&self.http, &self.parameters).ok() } else { None };
            let is_news = self.told.as_ref().is_none_or(|(at, before, before_endpoints)| {
                at.elapsed() >= QUIET || overview.differs(before) || endpoints != *before_endpoints
            });
            if !is_news {
                continue;
            }
            if let Some(endpoints) = &endpoints {
                self.waiting.push(event("endpoints", endpoints)?);
            }
            self.waiting.push(event("overview", &*overview)?.retry(RETRY));
            self.told = Some((Instant::now(), overview, endpoints));
        }
    }

    /// Also where sweeps take longer than nothing may be told.
    async fn wait_for_sweep(&mut self) -> Option<()> {
        match tokio::time::timeout(QUIET, self.swept.changed()).await {
            Ok(Err(_)) => None,
            _ => Some(()),
        }
    }
}

fn event<T: serde::Serialize>(name: &str, data: &T) -> Option<Event> {
    Event::default().event(name).json_data(data).ok()
}
