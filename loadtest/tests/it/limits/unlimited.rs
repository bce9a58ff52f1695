//! Tests that requests which pass without limits (`on_error: open`) are reported: by real gateways, with their names.

use serde_json::Value;

use super::{ChatRequest, Fixture, LIMIT};
use crate::support::wait::within;

/// Fewer missed deadlines than the plugin takes for a sign of a dead sidecar.
const REQUESTS: u64 = 5;

/// Returns the gateways that the overview of the sidecar reports as not limited.
async fn gaps(fixture: &Fixture) -> Result<Vec<Value>, String> {
    let overview = fixture.lab.sidecars()[0].get("/api/v1/overview").await.map_err(|e| e.to_string())?;
    let overview: Value = serde_json::from_str(&overview).map_err(|e| e.to_string())?;
    Ok(overview["gaps"].as_array().cloned().unwrap_or_default())
}

/// Waits until the overview reports this number of requests of the gateway.
async fn wait_reported(fixture: &Fixture, requests: u64) {
    within(LIMIT, "the gateway reports the requests", || async {
        let gaps = gaps(fixture).await?;
        let gateway = gaps.first().cloned().unwrap_or_default();
        let is_reported = gateway["unlimited"]["requests"] == requests && gateway["gateway"] == "envoy-0";
        if is_reported { Ok(()) } else { Err(format!("{gaps:?}")) }
    })
    .await;
}

/// The sidecar hangs, and later it is killed. The gateway reports every request that passed, and why.
#[tokio::test]
async fn a_gateway_reports_the_requests_that_passed_without_limits() {
    let builder = Fixture::builder(1, "").plugin_config(|config| {
        config["deadline_ms"] = 50.into();
        config["on_error"] = "open".into();
    });
    let Some(mut fixture) = Fixture::start(builder).await else { return };
    let request = ChatRequest::of("alice");
    let passed = async |fixture: &Fixture| {
        fixture.lab.envoys()[0].counted("evenkeel_fail_open").await.map_err(|e| e.to_string())
    };
    // The stream is open.
    fixture.send(0, &request).await.assert_served();
    let before = passed(&fixture).await.unwrap();
    fixture.lab.sidecar(0).pause().unwrap();
    for _ in 0..REQUESTS {
        fixture.send(0, &request).await.assert_served();
    }
    fixture.lab.sidecar(0).resume().unwrap();
    let late = passed(&fixture).await.unwrap();
    assert_eq!(late - before, REQUESTS);
    wait_reported(&fixture, late).await;
    let gap = gaps(&fixture).await.unwrap().remove(0)["unlimited"].take();
    let causes = ["late", "unreachable", "failed"].map(|cause| gap[cause].as_u64().unwrap());
    // On a busy machine, Envoy may end the connection to the hanging sidecar meanwhile.
    assert!(causes[0] > 0 && causes[2] == 0 && gap["now"] == true, "{gap}");

    fixture.lab.sidecar(0).kill9().unwrap();
    fixture.send(0, &request).await.assert_served();
    fixture.lab.sidecar(0).restart().await.unwrap();
    // The stream opens again when a request needs it.
    fixture.send(0, &request).await.assert_served();
    within(LIMIT, "the gateway reports the outage", || async {
        let (passed, gaps) = (passed(&fixture).await?, gaps(&fixture).await?);
        let gap = gaps.first().map(|gateway| gateway["unlimited"].clone()).unwrap_or_default();
        let is_reported = gap["requests"] == passed && gap["unreachable"].as_u64() > Some(0);
        if is_reported { Ok(()) } else { Err(format!("{passed}: {gaps:?}")) }
    })
    .await;
}
