//! Errors of the domain, free of any transport.

use std::borrow::Cow;

use crate::StoreError;

/// Why a call could not be answered. Being over a limit or cap is an answer, not one of these.
#[derive(Debug, thiserror::Error)]
pub enum DomainError {
    /// The caller's input is wrong.
    #[error("{field}: must be {expected}, got {got}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What it must be.
        expected: Cow<'static, str>,
        /// What it was.
        got: String,
    },
    /// What was asked for does not exist.
    #[error("{what} not found: {hint}")]
    NotFound {
        /// What was looked for.
        what: String,
        /// What the caller can do.
        hint: &'static str,
    },
    /// There is no room for more.
    #[error("{what}: {hint}")]
    Full {
        /// What is full.
        what: String,
        /// What the caller can do.
        hint: &'static str,
    },
    /// The sidecar is stopping.
    #[error("the sidecar is stopping")]
    Stopped,
    /// The store failed.
    #[error("{operation}")]
    Store {
        /// What was being done.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: StoreError,
    },
}

impl DomainError {
    /// A wrong field, with what was expected.
    #[must_use]
    pub fn invalid(field: &'static str, expected: impl Into<Cow<'static, str>>, got: &str) -> Self {
        Self::Invalid { field, expected: expected.into(), got: got.to_owned() }
    }

    /// There is no record of a refusal.
    #[must_use]
    pub fn not_recorded(request_id: &str) -> Self {
        Self::NotFound {
            what: format!("refusal of request {request_id:?}"),
            hint: "it was not refused by Evenkeel, or more than an hour ago, or among too many to keep",
        }
    }

    /// Adds what was being done to a store's error.
    pub fn store(operation: &'static str) -> impl FnOnce(StoreError) -> Self {
        move |source| Self::Store { operation, source }
    }
}
