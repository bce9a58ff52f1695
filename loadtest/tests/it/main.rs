//! Integration tests over real processes. They need Envoy (`EVENKEEL_ENVOY`), some also a Python with OpenAI's client
//! library (`EVENKEEL_PYTHON`), Prometheus (`EVENKEEL_PROMETHEUS`, `EVENKEEL_PROMTOOL`), or Chromium and what drives it
//! (`EVENKEEL_BROWSER`, `EVENKEEL_NODE`, `EVENKEEL_PAGE_TOOLS`). Where one is missing they say so and pass; with
//! `EVENKEEL_IT_REQUIRED` set that is a failure.

#![allow(clippy::unwrap_used)]

mod endings;
mod envoy_smoke;
mod faults;
mod gateway;
mod limits;
mod openai;
mod page;
mod prometheus;
mod ratelimit_filter;
mod support;
mod traces;
