//! Integration tests over real processes. They need Envoy (`EVENKEEL_ENVOY`), and where it is missing they say so and
//! pass; with `EVENKEEL_IT_REQUIRED` set a missing program is a failure.

#![allow(clippy::unwrap_used)]

mod endings;
mod envoy_smoke;
mod faults;
mod gateway;
mod ratelimit_filter;
mod support;
