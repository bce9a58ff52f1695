//! The sidecar's integration tests: one binary, real Redis servers, no fixed ports, no sleeps for
//! synchronisation.

#![allow(clippy::unwrap_used)]

mod acl;
mod activity;
mod admin;
mod cli;
mod config;
mod contract;
mod counters;
mod discovery;
mod drains;
mod faults;
mod kubernetes;
mod limits;
mod properties;
mod quotas;
mod redis_layout;
mod rls;
mod sidecar;
mod support;
mod top;
mod traces;
mod usage;
