//! Limits and quotas: what applies to a request, and their administration.

pub mod overrides;
pub mod own;
pub mod quotas;
