//! Tests of a gateway that loads another configuration of the plugin while it serves requests.

use std::time::Duration;

use evenkeel_loadtest::lab::{CustomEnvoy, Lab, bootstrap::sidecar_cluster, paths};

use crate::support::{
    chat,
    gateway::{connection_manager, one_host},
    lab::{self, roomy_engine},
    pool::{by_hosts, by_table, holders, metric},
    traffic::{ENDLESS, open},
    wait::within,
};

/// A silent holder is dead after a longer time than the test takes.
const INTERVAL: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(20);
const STREAMS: usize = 5;

/// Envoy ends the requests of an earlier configuration after its drain time. The table does not wait for the time after
/// which a silent holder is dead.
#[tokio::test]
async fn a_holder_says_goodbye_when_the_gateway_drops_its_configuration() {
    let builder = Lab::builder().hosts(2).envoys(0).sidecars(1).redis().engine(roomy_engine());
    let Some(lab) = lab::start(builder.keep_alive_interval(INTERVAL)).await else { return };
    let Some(module) = lab::found(paths::plugin()) else { return };
    let clusters = [one_host(lab.hosts()[0].port()), sidecar_cluster(lab.sidecars()[0].socket())];
    let managers = [connection_manager(&module, Duration::from_secs(1))];
    let envoy = CustomEnvoy::start(lab.dir(), "envoy-reconfigured", 1, managers, &clusters).await;
    let Some(envoy) = lab::found(envoy) else { return };

    let url = &envoy.urls()[0];
    let client = chat::client();
    let streams = futures::future::join_all((0..STREAMS).map(|_| open(&client, url, ENDLESS))).await;
    let before = holders(&lab, 0).await.unwrap();
    assert_eq!(before.values().copied().collect::<Vec<u64>>(), [STREAMS as u64], "{before:?}");

    envoy.reconfigure([connection_manager(&module, Duration::from_secs(2))]).unwrap();
    within(LIMIT, "a request uses the new configuration", || async {
        // A connection of its own, because an open connection keeps its configuration.
        open(&chat::client(), url, 1).await;
        let holders = holders(&lab, 0).await?;
        if holders.len() == 2 { Ok(()) } else { Err(format!("{holders:?}")) }
    })
    .await;
    within(LIMIT, "the table is empty", || async {
        let (hosts, table) = (by_hosts(&lab), by_table(&lab, 0).await?);
        let in_flight: u64 = hosts.values().chain(table.values()).sum();
        if in_flight == 0 { Ok(()) } else { Err(format!("hosts {hosts:?}, table {table:?}")) }
    })
    .await;
    within(LIMIT, "the earlier holder has said goodbye", || async {
        let ended = metric(&lab, 0, "evenkeel_streams_ended_total{reason=\"goodbye\"}").await;
        if ended == 1.0 { Ok(()) } else { Err(ended.to_string()) }
    })
    .await;
    assert_eq!(metric(&lab, 0, "evenkeel_leases_reaped_total").await, 0.0);
    drop(streams);
}
