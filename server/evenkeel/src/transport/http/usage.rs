//! Returns usage as JSON, or as CSV if the request prefers CSV.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{FromRequest, Request, State},
    http::header,
    response::IntoResponse as _,
};
use evenkeel_api::{ApiError, Code, csv};
use evenkeel_proto::v1::{GetSessionRequest, ListSessionsRequest, QueryUsageRequest};
use futures::{StreamExt as _, TryStreamExt as _};
use serde::de::DeserializeOwned;

use super::{
    Http,
    reply::{Answer, Failure, Shared, reply},
    request::{from_pairs, pairs},
};

/// A request, and whether the response is CSV. The parameter `format` decides that; without it, the header `accept`
/// does.
pub(super) struct Wanted<T> {
    csv: bool,
    request: T,
}

impl<T: DeserializeOwned> FromRequest<Arc<Http>> for Wanted<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &Arc<Http>) -> Result<Self, Failure> {
        let (request, mut pairs) = pairs(request, true).await?;
        let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
        let csv = match pairs.remove("format").unwrap_or_default().join(",").as_str() {
            "csv" => true,
            "json" => false,
            "" => accept.unwrap_or_default().split(',').any(|kind| kind.trim().starts_with("text/csv")),
            other => {
                let (expected, got) = ("json or csv", format!("{other:?}"));
                return Err(ApiError::of_field(Code::InvalidArgument, "format", expected, &got).into());
            }
        };
        Ok(Self { csv, request: from_pairs(pairs)? })
    }
}

pub(super) async fn usage(State(http): Shared, wanted: Wanted<QueryUsageRequest>) -> Answer {
    let Wanted { csv, request } = wanted;
    if !csv {
        return reply(http.api.query_usage(request).await);
    }
    let header = csv::usage_header(&request.by);
    if request.page_size > 0 || !request.page_token.is_empty() {
        let rows = http.api.query_usage(request).await?.rows;
        return as_csv("usage", header + &rows.iter().map(csv::usage_row).collect::<String>());
    }
    // The request specifies no page, so return all rows. A failure before the first rows produces an error response.
    // After a later failure, the response is cut off without the terminating chunk, so that the client notices.
    let mut parts = Box::pin(http.api.export_usage(&request)?);
    let first = parts.try_next().await?.unwrap_or_default();
    let parts = futures::stream::once(std::future::ready(Ok(first))).chain(parts);
    let lines = parts.map_ok(|rows| rows.iter().map(csv::usage_row).collect::<String>());
    let header = futures::stream::once(std::future::ready(Ok(header)));
    as_csv("usage", Body::from_stream(header.chain(lines.map_err(std::io::Error::other))))
}

pub(super) async fn sessions(State(http): Shared, wanted: Wanted<ListSessionsRequest>) -> Answer {
    let result = http.api.list_sessions(wanted.request).await;
    if wanted.csv { as_csv("sessions", csv::sessions(&result?.sessions)) } else { reply(result) }
}

pub(super) async fn session(State(http): Shared, wanted: Wanted<GetSessionRequest>) -> Answer {
    let result = http.api.get_session(wanted.request).await;
    if wanted.csv { as_csv("session", csv::turns(&result?.turns)) } else { reply(result) }
}

fn as_csv(name: &str, body: impl Into<Body>) -> Answer {
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}.csv\"")),
    ];
    Ok((headers, body.into()).into_response())
}
