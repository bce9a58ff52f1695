//! What the sidecar does for gateways and operators, independent of any transport.
//!
//! [`admission`] takes a request through the [`limiter`] and the [`balancer`], and records it in the [`ledger`] when it
//! ends. [`holders`] verifies who may act for a gateway worker. [`rls`] answers Envoy's rate limit filter from the same
//! counters. [`activity`] records events for operators, and [`change_log`] records the changes that administrators
//! make.

pub mod activity;
pub mod admission;
pub mod balancer;
pub mod change_log;
pub mod holders;
pub mod ledger;
pub mod limiter;
mod mean;
pub mod prefix;
pub mod rls;
mod versioned;
