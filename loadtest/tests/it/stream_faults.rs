//! Tests of the plugin's stream when the connection to the sidecar breaks. They compare the table with the hosts' own
//! counts.

use std::time::Duration;

use evenkeel_loadtest::lab::{
    CustomEnvoy, Lab,
    bootstrap::{address, http2_cluster},
    paths,
};
use serde_json::json;

use crate::support::{
    chat,
    gateway::{connection_manager, one_host},
    lab::{self, roomy_engine},
    pool::{CountWatch, by_table, holders, wait_exact},
    proxy::{Fault, Proxy},
    traffic::{ClosedLoop, ENDLESS, open},
};

const INTERVAL: Duration = Duration::from_secs(2);
const DEADLINE: Duration = Duration::from_secs(1);
/// Tolerance for a busy machine.
const SLACK: Duration = Duration::from_millis(700);
const STREAMS: usize = 10;

/// Who notices that the connection is dead.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Notices {
    /// Envoy, which pings the sidecar.
    Envoy,
    /// The plugin, which opens another stream. The cluster opens a connection for each stream, as Istio's
    /// DestinationRule can configure it. Otherwise Envoy would open the stream on the dead connection.
    Plugin,
}

/// Breaks the connection under load. No request waits longer than its deadline, and afterwards the same holder has
/// exactly the leases of the requests in flight.
async fn assert_recovery(fault: Fault, notices: Notices) {
    let builder = Lab::builder().hosts(1).envoys(0).sidecars(1).redis().engine(roomy_engine());
    let Some(mut lab) = lab::start(builder.keep_alive_interval(INTERVAL)).await else { return };
    let Some(module) = lab::found(paths::plugin()) else { return };
    let sidecar = lab.sidecars()[0].ready().grpc.as_ref().unwrap().parse().unwrap();
    let proxy = Proxy::start(sidecar).await;
    let mut to_sidecar = http2_cluster("evenkeel", &address(proxy.port));
    if notices == Notices::Plugin {
        let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        let options = &mut to_sidecar["typed_extension_protocol_options"][options];
        options["explicit_http_config"]["http2_protocol_options"] = json!({});
        options["common_http_protocol_options"] = json!({"max_requests_per_connection": 1});
    }
    let managers = [connection_manager(&module, DEADLINE)];
    let clusters = [one_host(lab.hosts()[0].port()), to_sidecar];
    let envoy = CustomEnvoy::start(lab.dir(), "envoy-faults", 1, managers, &clusters).await;
    let Some(envoy) = lab::found(envoy) else { return };

    let watch = CountWatch::start(&mut lab).await;
    let client = chat::client();
    let streams =
        futures::future::join_all((0..STREAMS).map(|_| open(&client, &envoy.urls()[0], ENDLESS))).await;
    let before: Vec<String> = holders(&lab, 0).await.unwrap().into_keys().collect();
    let load = ClosedLoop::over(envoy.urls(), 8);
    load.wait_served(50).await;
    proxy.inject(fault);
    load.wait_served(100).await;
    let longest = load.stop().await;
    eprintln!("{fault:?}: the longest request took {longest:?}");
    assert!(longest <= DEADLINE + SLACK, "{longest:?}");
    wait_exact(&lab, 0, 2 * INTERVAL + SLACK).await;
    assert_eq!(by_table(&lab, 0).await.unwrap().values().sum::<u64>(), streams.len() as u64);
    let after: Vec<String> = holders(&lab, 0).await.unwrap().into_keys().collect();
    assert_eq!(after, before, "the worker is the same holder");
    watch.assert_never_negative().await;
}

#[tokio::test]
async fn a_reset_connection_is_replaced() {
    assert_recovery(Fault::Reset, Notices::Envoy).await;
}

#[tokio::test]
async fn a_black_hole_is_noticed_by_the_gateways_pings() {
    assert_recovery(Fault::BlackHole, Notices::Envoy).await;
}

#[tokio::test]
async fn a_black_hole_is_noticed_by_the_plugin() {
    assert_recovery(Fault::BlackHole, Notices::Plugin).await;
}

#[tokio::test]
async fn a_half_open_connection_is_noticed_by_the_plugin() {
    assert_recovery(Fault::HalfOpen, Notices::Plugin).await;
}
