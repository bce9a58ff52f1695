//! Converts errors to gRPC statuses.

use evenkeel_api::ApiError;
use evenkeel_domain::DomainError;
use tonic::{Code, Status};

pub(crate) fn to_status(error: &DomainError) -> Status {
    status(ApiError::from(error))
}

#[allow(clippy::needless_pass_by_value)] // for map_err
pub(crate) fn status(error: ApiError) -> Status {
    Status::new(Code::from_i32(error.code.grpc()), error.message)
}
