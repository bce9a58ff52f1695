//! The sidecar's integration tests. CONTRIBUTING.md ("Adding a test") describes where a test belongs and how to run
//! one.

#![allow(clippy::unwrap_used)]

mod access;
mod acl;
mod activity;
mod admin;
mod bounds;
mod charges;
mod cli;
mod config;
mod connect;
mod contract;
mod counters;
mod discovery;
mod drains;
mod faults;
mod gateways;
mod holders;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod large_rosters;
mod latency;
mod limits;
mod long_lists;
mod prefixes;
mod properties;
mod quotas;
mod redis_cluster;
mod redis_failover;
mod redis_layout;
mod redis_sentinel;
mod redis_tls;
mod rls;
mod sidecar;
mod support;
mod tickets;
mod top;
#[cfg(feature = "traces")]
mod traces;
mod usage;
mod windows;
