//! Integration tests with real processes.
//!
//! They need Envoy (`EVENKEEL_ENVOY`). Some also need a Python interpreter with OpenAI's client library
//! (`EVENKEEL_PYTHON`), Prometheus (`EVENKEEL_PROMETHEUS`, `EVENKEEL_PROMTOOL`), or Chromium, Node.js and playwright-core
//! (`EVENKEEL_BROWSER`, `EVENKEEL_NODE`, `EVENKEEL_PAGE_TOOLS`). Without such a program a test says so and passes; with
//! `EVENKEEL_IT_REQUIRED` set it fails.

#![allow(clippy::unwrap_used)]

mod envoy_smoke;
mod faults;
mod limits;
mod openai;
mod page;
mod prometheus;
mod rate_limit_filter;
mod request_endings;
mod support;
mod traces;
