//! Converts messages and errors to JSON responses.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use evenkeel_api::{ApiError, Code};
use serde_json::json;

use super::Http;

pub(super) type Shared = State<Arc<Http>>;
pub(super) type Answer = Result<Response, Failure>;

/// Returns a message as JSON, or status 204 for an empty message.
pub(super) fn reply<T: serde::Serialize>(result: Result<T, ApiError>) -> Answer {
    Ok(match serde_json::to_vec(&result?) {
        Ok(json) if json == b"{}" => StatusCode::NO_CONTENT.into_response(),
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    })
}

/// An error response. Every error over HTTP has this JSON format.
pub(crate) struct Failure(ApiError);

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let ApiError { code, field, message } = self.0;
        let status = StatusCode::from_u16(code.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let error = json!({"status": code.http(), "code": code.name(), "field": field, "message": message});
        let mut response = (status, Json(json!({"error": error}))).into_response();
        if code == Code::Unauthenticated {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Converts errors that no operation returned, such as unknown paths and methods, to the format of [`Failure`]. A gRPC
/// client that calls this port by mistake gets no body, because such a client reads the HTTP status only of a response
/// without a body.
pub(super) async fn json_errors(request: Request, next: Next) -> Response {
    let media = request.headers().get(header::CONTENT_TYPE);
    let is_grpc = media.is_some_and(|media| media.as_bytes().starts_with(b"application/grpc"));
    let response = next.run(request).await;
    let status = response.status();
    let is_json = |value: &HeaderValue| value.as_bytes().starts_with(b"application/json");
    let is_error = status.is_client_error() || status.is_server_error();
    if is_grpc || !is_error || response.headers().get(header::CONTENT_TYPE).is_some_and(is_json) {
        return response;
    }
    let message = status.canonical_reason().unwrap_or("error").to_lowercase();
    let code = Code::of_http(status.as_u16());
    let mut answer = Failure(ApiError { code, field: None, message }).into_response();
    if let Some(methods) = response.headers().get(header::ALLOW) {
        answer.headers_mut().insert(header::ALLOW, methods.clone());
    }
    answer
}
