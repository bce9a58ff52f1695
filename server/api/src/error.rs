//! Errors of the API, and the only table that maps the domain's errors to gRPC codes and HTTP statuses.

use std::error::Error;

use evenkeel_domain::{DomainError, StoreError};

use crate::auth::Rejected;

/// The kind of an API error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    InvalidArgument,
    UnsupportedMediaType,
    TooLarge,
    Unauthenticated,
    PermissionDenied,
    NotFound,
    MethodNotAllowed,
    Misdirected,
    ResourceExhausted,
    Unavailable,
    Internal,
}

impl Code {
    /// Columns: code, name in JSON, number in gRPC, HTTP status.
    pub const TABLE: [(Self, &'static str, i32, u16); 11] = [
        (Self::InvalidArgument, "invalid_argument", 3, 400),
        (Self::UnsupportedMediaType, "unsupported_media_type", 3, 415),
        (Self::TooLarge, "too_large", 3, 413),
        (Self::Unauthenticated, "unauthenticated", 16, 401),
        (Self::PermissionDenied, "permission_denied", 7, 403),
        (Self::NotFound, "not_found", 5, 404),
        (Self::MethodNotAllowed, "method_not_allowed", 12, 405),
        (Self::Misdirected, "misdirected", 3, 421),
        (Self::ResourceExhausted, "resource_exhausted", 8, 429),
        (Self::Unavailable, "unavailable", 14, 503),
        (Self::Internal, "internal", 13, 500),
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        Self::TABLE[self as usize].1
    }

    #[must_use]
    pub fn grpc(self) -> i32 {
        Self::TABLE[self as usize].2
    }

    #[must_use]
    pub fn http(self) -> u16 {
        Self::TABLE[self as usize].3
    }

    /// Returns the code for an HTTP status that no operation returned, such as the status for an unknown path.
    #[must_use]
    pub fn of_http(status: u16) -> Self {
        let found = Self::TABLE.iter().find(|(_, _, _, http)| *http == status).map(|(code, ..)| *code);
        found.unwrap_or(if status < 500 { Self::InvalidArgument } else { Self::Internal })
    }
}

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub code: Code,
    /// The field, parameter or header that is invalid.
    pub field: Option<String>,
    pub message: String,
}

impl ApiError {
    /// Returns an error about an invalid field. The message states what the field must be.
    #[must_use]
    pub fn of_field(code: Code, field: &str, expected: &str, got: &str) -> Self {
        let message = format!("{field}: must be {expected}, got {got}");
        Self { code, field: Some(field.to_owned()), message }
    }
}

impl From<DomainError> for ApiError {
    fn from(error: DomainError) -> Self {
        Self::from(&error)
    }
}

impl From<&DomainError> for ApiError {
    /// Converts an error of the domain. The message includes the error's causes.
    fn from(error: &DomainError) -> Self {
        let code = match error {
            DomainError::Invalid { .. } => Code::InvalidArgument,
            DomainError::NotFound { .. } => Code::NotFound,
            DomainError::Full { .. } => Code::ResourceExhausted,
            DomainError::Stopped => Code::Unavailable,
            DomainError::Store { source, .. } => match source {
                StoreError::Unavailable(_)
                | StoreError::NotSent(_)
                | StoreError::Refused(_)
                | StoreError::Timeout(_) => Code::Unavailable,
                StoreError::Overloaded(_) => Code::ResourceExhausted,
                StoreError::Script { .. } | StoreError::Corrupt { .. } => Code::Internal,
            },
        };
        let causes = std::iter::successors(error.source(), |cause| (*cause).source());
        let message = causes.fold(error.to_string(), |message, cause| format!("{message}: {cause}"));
        let field = match error {
            DomainError::Invalid { field, .. } => Some((*field).to_owned()),
            _ => None,
        };
        Self { code, field, message }
    }
}

impl From<Rejected> for ApiError {
    fn from(rejected: Rejected) -> Self {
        let code = match rejected {
            Rejected::NothingShown(_) | Rejected::WrongToken => Code::Unauthenticated,
            Rejected::NoAdministrators
            | Rejected::TokenLacksRole { .. }
            | Rejected::CertificateLacksRole { .. } => Code::PermissionDenied,
        };
        Self { code, field: Some("authorization".to_owned()), message: rejected.to_string() }
    }
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
            let error = ApiError::from(error);
            assert_eq!((error.code, error.message.as_str()), (code, message));
        }
        assert_eq!(ApiError::from(DomainError::invalid("f", "x", "y")).field.as_deref(), Some("f"));
    }

    #[test]
    fn the_table_is_in_the_order_of_the_codes() {
        for (place, (code, name, grpc, http)) in Code::TABLE.into_iter().enumerate() {
            assert_eq!((code as usize, code.name(), code.grpc(), code.http()), (place, name, grpc, http));
            assert_eq!(Code::of_http(http), code);
        }
        assert_eq!((Code::of_http(418), Code::of_http(502)), (Code::InvalidArgument, Code::Internal));
    }
}
