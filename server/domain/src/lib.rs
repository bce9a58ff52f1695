//! The domain model: pools, endpoints, holders, leases, the choice of an endpoint, limits and usage. Does no I/O.

pub mod activity;
pub mod choice;
pub mod clock;
mod error;
pub mod file_kind;
pub mod gateway;
mod ids;
pub mod limit;
pub mod page;
mod policy;
mod roster;
pub mod settings;
mod store_error;
pub mod usage;
pub mod verdict;

pub use error::DomainError;
pub use ids::{
    HolderId, IDENTITY_BYTES_MAX, LEASE_MAX, LeaseId, NAME_BYTES_MAX, PoolId, check_name, check_text, clean,
    shorten,
};
pub use roster::{ENDPOINTS_MAX, Endpoint, Roster};
pub use store_error::StoreError;
