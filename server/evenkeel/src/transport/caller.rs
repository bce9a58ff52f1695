//! The caller of a request, which [`access`](super::access) has checked and which handlers read.

use axum::http::Extensions;
use evenkeel_api::{Administrator, ApiError, Caller, Code};

/// Returns the caller of a request.
pub(super) fn caller(extensions: &Extensions) -> Result<Caller, ApiError> {
    extensions.get::<Caller>().cloned().ok_or_else(|| unchecked("nobody has checked the caller"))
}

/// Returns the caller of a request as an administrator.
pub(super) fn administrator(extensions: &Extensions) -> Result<Administrator, ApiError> {
    caller(extensions)?.administrator().ok_or_else(|| unchecked("the caller is no administrator"))
}

/// Returns the error for a call whose row in the table of roles is wrong.
fn unchecked(message: &str) -> ApiError {
    ApiError { code: Code::Internal, field: None, message: message.to_owned() }
}
