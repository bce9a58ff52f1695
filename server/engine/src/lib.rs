//! What the sidecar does for gateways and operators, free of any transport.
//!
//! [`admission`] takes a request through the [`limiter`] and the [`balancer`] and, when it ends, into the [`ledger`].
//! [`rls`] answers Envoy's rate limit filter from the same counters. [`activity`] records what happened, for operators,
//! and [`change_log`] what administrators changed.

pub mod activity;
pub mod admission;
pub mod balancer;
pub mod change_log;
pub mod ledger;
pub mod limiter;
pub mod rls;
mod versioned;
