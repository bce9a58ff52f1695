//! Tests of the capacity page in a real Chromium. They compare the page with the counts of the sidecars and the mock
//! hosts.
//!
//! The checks are in `server/evenkeel/page/tests/checks`. They run in Node.js, which drives the browser. The checks
//! send requests to the lab (chat requests, a killed sidecar, the hosts' own counts) as lines on Node's standard
//! output. They read the responses as lines on its standard input.

use std::{path::Path, time::Duration};

use evenkeel_loadtest::{
    engine::EngineParams,
    lab::{Lab, paths},
};

use crate::support::{
    admin::TOKEN,
    lab::{self, exact_plugin, roomy_engine},
};

mod driver;
mod many;
mod pictures;
mod scene;

use driver::Driver;

/// No consumer reaches these limits except `greedy`.
const LIMITS: &str = "
admin: {tokens: [{name: tests, token: an-administrators-token}]}
models: [{model: \"*\", output_tokens: 40, bytes_per_token: 4}]
limits:
  - {name: consumer-rpm, counts: requests, amount: 100000, per: 1h, key: [consumer]}
  - {name: once, counts: requests, amount: 1, per: 31d, key: [consumer], when: [{attribute: consumer, exact: greedy}]}
quotas:
  - {name: credit, counts: cost, kind: prepaid, default: 5}
prices: [{model: \"*\", input: 0.5, output: 1.5}]
";

/// Starts two gateways with a sidecar each, over one Redis. If a program is not installed, prints this and returns
/// `None`.
async fn start() -> Option<Driver> {
    lab::found(paths::browser())?;
    lab::found(paths::node())?;
    lab::found(paths::page_tools())?;
    let builder = Lab::builder()
        .hosts(3)
        .envoys(2)
        .sidecars(2)
        .redis()
        .engine(EngineParams { base_ms: 1.0, ..roomy_engine() })
        .token_batch(7)
        // A slow response on a busy machine must not count as an outage.
        .store_timeout(Duration::from_secs(1))
        .pool_yaml("cap: 8")
        .sidecar_yaml(LIMITS)
        .plugin_config(exact_plugin);
    Some(Driver::new(lab::start(builder).await?))
}

/// A sidecar that lets nobody read without a token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_asks_for_a_token_where_reading_needs_one() {
    if lab::found(paths::browser())
        .and(lab::found(paths::node()))
        .and(lab::found(paths::page_tools()))
        .is_none()
    {
        return;
    }
    let token = "a-readers-token-of-16";
    let roles = format!("{LIMITS}reader: {{tokens: [{{name: tests-reader, token: {token}}}]}}\n");
    let builder = Lab::builder().hosts(1).envoys(0).sidecars(1).sidecar_yaml(&roles);
    let Some(lab) = lab::start(builder.listen_yaml("http_roles: []")).await else { return };
    Driver::new(lab).run(Path::new("run.mjs"), &["signin"], &[("EVENKEEL_PAGE_READER", token)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_shows_the_counts_of_sidecars_and_hosts() {
    let Some(mut driver) = start().await else { return };
    let checks = [
        "loading",
        "figures",
        "refusal",
        "hostile",
        "links",
        "keyboard",
        "admin",
        "accessible",
        "attention",
        "restart",
    ];
    driver.run(Path::new("run.mjs"), &checks, &[]).await;
}
