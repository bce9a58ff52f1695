//! The one table from errors to gRPC codes.

use std::error::Error;

use evenkeel_domain::{DomainError, StoreError};
use tonic::{Code, Status};

/// An error as a gRPC status: its own words, then its causes.
pub(crate) fn to_status(error: &DomainError) -> Status {
    let code = match error {
        DomainError::Invalid { .. } => Code::InvalidArgument,
        DomainError::NotFound { .. } => Code::NotFound,
        DomainError::Full { .. } => Code::ResourceExhausted,
        DomainError::Stopped => Code::Unavailable,
        DomainError::Store { source, .. } => match source {
            StoreError::Unavailable(_) | StoreError::Timeout(_) => Code::Unavailable,
            StoreError::Overloaded(_) => Code::ResourceExhausted,
            StoreError::Script { .. } | StoreError::Corrupt { .. } => Code::Internal,
        },
    };
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    Status::new(code, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_its_code() {
        let store = |source| DomainError::Store { operation: "doing", source };
        let corrupt = StoreError::Corrupt { script: "s", detail: "d".into() };
        let table = [
            (DomainError::invalid("f", "x", "y"), Code::InvalidArgument, "f: must be x, got y"),
            (DomainError::NotFound { what: "w".into(), hint: "h" }, Code::NotFound, "w not found: h"),
            (DomainError::Full { what: "w".into(), hint: "h" }, Code::ResourceExhausted, "w: h"),
            (DomainError::Stopped, Code::Unavailable, "the sidecar is stopping"),
            (store(StoreError::Unavailable("u".into())), Code::Unavailable, "doing: store unavailable: u"),
            (store(StoreError::Timeout(5)), Code::Unavailable, "doing: store did not answer within 5 ms"),
            (
                store(StoreError::Overloaded(9)),
                Code::ResourceExhausted,
                "doing: 9 calls already wait for the store",
            ),
            (store(corrupt), Code::Internal, "doing: script s answered d"),
        ];
        for (error, code, message) in table {
            let status = to_status(&error);
            assert_eq!((status.code(), status.message()), (code, message));
        }
    }
}
