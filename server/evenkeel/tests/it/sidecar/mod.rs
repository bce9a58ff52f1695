//! A whole sidecar with real clients: the calls of gateways, the views of operators, and the shutdown.

mod gateway;
mod ghosts;
mod inspect;
mod keep_alive;
mod shutdown;
mod socket;
mod work;

const TWO: &str =
    "pools: [{cluster: llm, cap: 2, full_retry_after: 7s, endpoints: [{address: 'a:1'}, {address: 'b:1'}]}]";

/// Returns a configuration with which no holder expires, however slow the machine is. For tests that are not about dead
/// holders.
fn steady(yaml: &str) -> String {
    format!("keep_alive_interval: 60s\n{yaml}")
}
