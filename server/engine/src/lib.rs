//! What the sidecar does for gateways and operators, free of any transport.
//!
//! [`admission`] takes a request through the [`limiter`] and the [`balancer`] and, when it ends, into the [`ledger`].
//! [`rls`] answers Envoy's rate limit filter from the same counters. [`activity`] keeps what happened, for people.

pub mod activity;
pub mod admission;
pub mod audit;
pub mod balancer;
mod follow;
pub mod ledger;
pub mod limiter;
pub mod rls;
