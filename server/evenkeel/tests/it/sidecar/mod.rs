//! A whole sidecar with real clients: what gateways ask, what operators see, and how it stops.

mod gateway;
mod inspect;
mod keep_alive;
mod shutdown;
mod socket;

const TWO: &str =
    "pools: [{cluster: llm, cap: 2, full_retry_after: 7s, endpoints: [{address: 'a:1'}, {address: 'b:1'}]}]";

/// Nothing expires, however slow the machine: for tests that are not about silent holders.
fn steady(yaml: &str) -> String {
    format!("keep_alive_interval: 60s\n{yaml}")
}
