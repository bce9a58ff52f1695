//! Sends a watch as server-sent events.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    http::{HeaderName, HeaderValue},
    response::{
        IntoResponse as _,
        sse::{Event, KeepAlive, Sse},
    },
};
use evenkeel_proto::v1::{WatchRequest, WatchResponse};
use futures::{StreamExt as _, stream};

use super::{
    reply::{Answer, Shared},
    request::Read,
};

/// Time that a browser waits before it connects again.
const RETRY: Duration = Duration::from_secs(1);

pub(super) async fn watch(State(http): Shared, Read(request): Read<WatchRequest>) -> Answer {
    let responses = http.api.watch(request, http.stop.clone())?;
    let events = responses.flat_map(|WatchResponse { overview, endpoints }| {
        let overview = overview.and_then(|data| Event::default().event("overview").json_data(data).ok());
        let endpoints = endpoints.and_then(|data| Event::default().event("endpoints").json_data(data).ok());
        let overview = overview.map(|event| event.retry(RETRY));
        stream::iter([overview, endpoints].into_iter().flatten().map(Ok::<_, Infallible>))
    });
    let keep_alive = KeepAlive::new().interval(Duration::from_secs(15));
    // Without this header, proxies such as nginx buffer the events.
    let headers = [(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"))];
    Ok((headers, Sse::new(events).keep_alive(keep_alive)).into_response())
}
