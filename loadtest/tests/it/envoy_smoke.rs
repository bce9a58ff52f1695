//! Tests of Envoy's own policies and of the override header, with real Envoys and mock hosts.

use std::{collections::BTreeMap, time::Duration};

use evenkeel_loadtest::{
    lab::{Lab, OVERRIDE_HOST_HEADER, Policy},
    mock::{FAIL, HOST},
    wait,
};

use crate::support::{
    chat,
    lab::{self, fast_engine},
};

#[tokio::test]
async fn every_policy_reaches_the_hosts_and_streams() {
    let Some(lab) =
        lab::start(Lab::builder().hosts(4).envoys(2).engine(fast_engine()).time_scale(10.0)).await
    else {
        return;
    };
    let client = chat::client();
    for policy in [Policy::EnvoyRoundRobin, Policy::EnvoyRandom, Policy::EnvoyLeastRequest, Policy::Ideal] {
        let mut hosts: BTreeMap<String, u32> = BTreeMap::new();
        for i in 0..16 {
            let mut request = chat::request(&lab.envoys()[i % 2].url(policy), 10, 5);
            let named = lab.hosts()[i % 4].to_string();
            if policy == Policy::Ideal {
                request = request.header(OVERRIDE_HOST_HEADER, &named);
            }
            let response = client.request(request.body(chat::streaming()).unwrap()).await.unwrap();
            assert_eq!(response.status(), 200);
            let host = response.headers()[HOST].to_str().unwrap().to_owned();
            if policy == Policy::Ideal {
                assert_eq!(host, named);
            }
            *hosts.entry(host).or_default() += 1;
            let text = chat::text(response).await.unwrap();
            assert_eq!(text.matches("\ndata: ").count(), 6, "5 tokens, usage, [DONE]: {text}");
            assert!(text.contains(r#""usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}"#));
        }
        if policy == Policy::EnvoyRoundRobin {
            assert!(hosts.values().all(|n| *n == 4), "{hosts:?}");
        }
    }
    lab.wait_idle(Duration::from_secs(5)).await.unwrap();
    assert!(lab.mock_stats().iter().all(|host| host.aborted == 0 && host.finished == host.started));
}

#[tokio::test]
async fn a_client_that_disconnects_frees_its_slot() {
    let Some(lab) = lab::start(Lab::builder().hosts(1)).await else { return };
    let request = chat::request(&lab.envoys()[0].url(Policy::EnvoyRoundRobin), 10, 100_000);
    let client = chat::client();
    let response = client.request(request.body(chat::streaming()).unwrap()).await.unwrap();
    assert_eq!(lab.mock_in_flight(), [1]);
    drop(response);
    drop(client);
    lab.wait_idle(Duration::from_secs(5)).await.unwrap();
    let stats = lab.mock_stats()[0];
    assert_eq!((stats.aborted, stats.running), (1, 0));
}

#[tokio::test]
async fn requested_failures_occur() {
    let Some(lab) = lab::start(Lab::builder().hosts(1).engine(fast_engine())).await else { return };
    let url = lab.envoys()[0].url(Policy::EnvoyRoundRobin);
    let client = chat::client();
    for (fail, status) in [("503", 503), ("404-empty", 404), ("reset", 503)] {
        let request = chat::request(&url, 1, 1).header(FAIL, fail).body(chat::streaming()).unwrap();
        assert_eq!(client.request(request).await.unwrap().status(), status, "{fail}");
    }
    let request = chat::request(&url, 1, 9).header(FAIL, "cut").body(chat::streaming()).unwrap();
    let response = client.request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    chat::text(response).await.unwrap_err();

    let request = chat::request(&url, 1, 1).header(FAIL, "hang").body(chat::streaming()).unwrap();
    let hanging = tokio::spawn(client.request(request));
    wait::until("the request to hang", Duration::from_secs(5), async || lab.mock_in_flight() == [1])
        .await
        .unwrap();
    hanging.abort();
    drop(client);
    lab.wait_idle(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_killed_gateway_restarts_on_its_ports() {
    let Some(mut lab) = lab::start(Lab::builder().hosts(1).engine(fast_engine())).await else { return };
    let url = lab.envoy(0).url(Policy::EnvoyRoundRobin);
    lab.envoy(0).kill9().unwrap();
    let request = || chat::request(&url, 1, 1).body(chat::streaming()).unwrap();
    chat::client().request(request()).await.unwrap_err();
    lab.envoy(0).restart().await.unwrap();
    assert_eq!(chat::client().request(request()).await.unwrap().status(), 200);
}
