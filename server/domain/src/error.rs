//! Errors of the domain, independent of any transport.

use std::borrow::Cow;

use crate::StoreError;

/// Why a call failed. A refusal by a limit or cap is a verdict, not an error.
#[derive(Debug, thiserror::Error)]
pub enum DomainError {
    /// The caller's input is invalid.
    #[error("{field}: must be {expected}, got {got}")]
    Invalid { field: &'static str, expected: Cow<'static, str>, got: String },
    /// The requested object does not exist.
    #[error("{what} not found: {hint}")]
    NotFound { what: String, hint: &'static str },
    /// The maximum number of objects is reached.
    #[error("{what}: {hint}")]
    Full { what: String, hint: &'static str },
    #[error("the sidecar is stopping")]
    Stopped,
    #[error("{operation}")]
    Store {
        /// What the caller was doing, such as "reading a quota".
        operation: &'static str,
        #[source]
        source: StoreError,
    },
}

impl DomainError {
    /// Builds the error for an invalid field.
    #[must_use]
    pub fn invalid(field: &'static str, expected: impl Into<Cow<'static, str>>, got: &str) -> Self {
        Self::Invalid { field, expected: expected.into(), got: got.to_owned() }
    }

    /// Builds the error for a request whose refusal is not recorded.
    #[must_use]
    pub fn not_recorded(request_id: &str) -> Self {
        Self::NotFound {
            what: format!("refusal of request {request_id:?}"),
            hint: "it was not refused by Evenkeel, or more than an hour ago, or among too many to keep",
        }
    }

    /// Returns a function that adds the caller's operation to a store error.
    pub fn store(operation: &'static str) -> impl FnOnce(StoreError) -> Self {
        move |source| Self::Store { operation, source }
    }
}
