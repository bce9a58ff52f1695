//! Integration tests with real processes.
//!
//! All tests except `chaos` need Envoy (`EVENKEEL_ENVOY`). Some tests also need a Python interpreter with OpenAI's client library
//! (`EVENKEEL_PYTHON`), Prometheus (`EVENKEEL_PROMETHEUS`, `EVENKEEL_PROMTOOL`), or Chromium, Node.js and
//! playwright-core (`EVENKEEL_BROWSER`, `EVENKEEL_NODE`, `EVENKEEL_PAGE_TOOLS`). If such a program is not installed, a
//! test prints this and passes; with `EVENKEEL_IT_REQUIRED` set, the test fails.

#![allow(clippy::unwrap_used)]

mod chaos;
mod comparison;
mod envoy_smoke;
mod faults;
mod least_work;
mod limits;
mod load_tester;
mod model_servers;
mod mutual_tls;
mod openai;
mod page;
mod prometheus;
mod rate_limit_filter;
mod reconfiguration;
mod request_endings;
mod stream_faults;
mod support;
mod traces;
