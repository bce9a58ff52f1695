//! The shutdown of a sidecar.

use std::time::Duration;

use evenkeel_proto::v1::{self as pb, inspect_client::InspectClient};

use super::{TWO, steady};
use crate::support::{eventually, sidecar::Sidecar};

/// A sidecar reports that it is stopping while it still serves, so that load balancers notice in time.
#[tokio::test]
async fn a_stopping_sidecar_reports_it_and_serves_until_the_delay_ends() {
    let s = Sidecar::start(&format!("shutdown_delay: 1s\n{TWO}")).await;
    let channel = tonic::transport::Endpoint::from_shared(s.url()).unwrap().connect().await.unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let service = |name: &str| tonic_health::pb::HealthCheckRequest { service: name.into() };
    let mut watch = health.watch(service("")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 1);

    let since = tokio::time::Instant::now();
    s.shutdown.cancel();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 2);
    eventually(Duration::from_secs(1), "health of the Gateway service", || async {
        match health.clone().check(service("evenkeel.v1.Gateway")).await.unwrap().into_inner().status {
            2 => Ok(()),
            status => Err(status.to_string()),
        }
    })
    .await;
    assert_eq!(s.get("/readyz").await.0, 503, "on a new connection");
    s.lease("llm", "h", 1).await;
    assert!(s.settle("llm", "h", 1).await);
    // After the delay, neither the watch of health nor idle connections hold up the shutdown.
    let stopped = tokio::time::timeout(Duration::from_secs(8), s.task).await.expect("stops in time");
    stopped.unwrap().unwrap();
    assert!(since.elapsed() >= Duration::from_secs(1), "after {:?}", since.elapsed());
}

/// Guards against a client that does not read its watch. It delayed a shutdown for the full ten seconds.
#[tokio::test]
async fn a_watcher_that_does_not_read_does_not_delay_the_shutdown() {
    // There are more pools than the watch buffers, with states larger than the connection's window.
    let many: Vec<String> = (0..400)
        .map(|i| {
            let endpoints: Vec<_> = (0..200).map(|j| format!("{{address: 'host-{i}-{j}'}}")).collect();
            format!("{{cluster: c{i}, endpoints: [{}]}}", endpoints.join(", "))
        })
        .collect();
    let s = Sidecar::start(&format!("pools: [{}]", many.join(", "))).await;
    let mut watch =
        s.inspect.clone().watch_pools(pb::WatchPoolsRequest::default()).await.unwrap().into_inner();
    watch.message().await.unwrap();
    s.shutdown.cancel();
    let stopped = tokio::time::timeout(Duration::from_secs(8), s.task).await.expect("stops in time");
    stopped.unwrap().unwrap();
}

#[tokio::test]
async fn a_shutdown_ends_watches() {
    let s = Sidecar::start(&steady(TWO)).await;
    let mut watch = InspectClient::clone(&s.inspect)
        .watch_pools(pb::WatchPoolsRequest::default())
        .await
        .unwrap()
        .into_inner();
    watch.message().await.unwrap();
    s.shutdown.cancel();
    let stopped = tokio::time::timeout(Duration::from_secs(5), s.task).await.expect("stops in time");
    stopped.unwrap().unwrap();
}
