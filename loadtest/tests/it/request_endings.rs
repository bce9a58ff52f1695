//! However a request ends, the plugin settles its lease. KeepAlives are a minute apart in these tests, so no KeepAlive
//! can repair a missing Settle.

use std::time::Duration;

use evenkeel_loadtest::{
    lab::{Lab, OVERRIDE_HOST_HEADER, Policy},
    mock::{FAIL, HOST},
    wait,
};

use crate::support::{
    chat,
    lab::{self, roomy_engine},
    pool::{by_table, metric},
    traffic::{ENDLESS, open},
    wait::within,
};

const RELEASED: &str = "evenkeel_settles_total{result=\"released\"}";
const LIMIT: Duration = Duration::from_secs(10);

struct Fixture {
    lab: Lab,
    settled: f64,
}

impl Fixture {
    async fn start(pool_yaml: &str) -> Option<Self> {
        let builder =
            Lab::builder().hosts(2).envoys(1).sidecars(1).engine(roomy_engine()).pool_yaml(pool_yaml);
        let builder = builder.keep_alive_interval(Duration::from_secs(60)).plugin_config(|config| {
            config["deadline_ms"] = 2000.into();
        });
        Some(Self { lab: lab::start(builder).await?, settled: 0.0 })
    }

    fn url(&self) -> String {
        self.lab.envoys()[0].url(Policy::EvenkeelLeastRequest)
    }

    fn request(&self, output: u32) -> http::request::Builder {
        chat::request(&self.url(), 10, output)
    }

    /// Waits until one more lease is settled and no lease is left.
    async fn wait_settled(&mut self, ending: &str) {
        self.settled += 1.0;
        within(LIMIT, &format!("the lease is settled after {ending}"), || async {
            let (table, settled) = (by_table(&self.lab, 0).await?, metric(&self.lab, 0, RELEASED).await);
            let in_flight = table.values().sum::<u64>();
            if in_flight == 0 && settled == self.settled {
                Ok(())
            } else {
                Err(format!("{in_flight} in flight, {settled} of {} settled", self.settled))
            }
        })
        .await;
    }
}

#[tokio::test]
async fn every_ending_is_settled() {
    let Some(mut fixture) = Fixture::start("").await else { return };
    let client = chat::client();

    let response = client.request(fixture.request(5).body(chat::streaming()).unwrap()).await.unwrap();
    assert!(chat::text(response).await.unwrap().contains("[DONE]"));
    fixture.wait_settled("a complete stream").await;

    let whole = http_body_util::Full::from(r#"{"model":"mock","messages":[]}"#);
    let response = client.request(fixture.request(5).body(whole).unwrap()).await.unwrap();
    assert!(chat::text(response).await.unwrap().contains("usage"));
    fixture.wait_settled("a complete body").await;

    for (fail, status) in [("503", 503), ("404-empty", 404), ("reset", 503)] {
        let request = fixture.request(5).header(FAIL, fail).body(chat::streaming()).unwrap();
        assert_eq!(client.request(request).await.unwrap().status(), status, "{fail}");
        fixture.wait_settled(fail).await;
    }

    let request = fixture.request(9).header(FAIL, "cut").body(chat::streaming()).unwrap();
    let response = client.request(request).await.unwrap();
    chat::text(response).await.unwrap_err();
    fixture.wait_settled("a stream cut by the upstream").await;

    let leaving = chat::client();
    let stream = open(&leaving, &fixture.url(), ENDLESS).await;
    drop((stream, leaving));
    fixture.wait_settled("a client that disconnected in mid-stream").await;

    let leaving = chat::client();
    let request = fixture.request(5).header(FAIL, "hang").body(chat::streaming()).unwrap();
    let hanging = tokio::spawn(leaving.request(request));
    wait::until("the request to hang", LIMIT, async || fixture.lab.mock_in_flight().iter().sum::<u64>() == 1)
        .await
        .unwrap();
    hanging.abort();
    drop(leaving);
    fixture.wait_settled("a client that disconnected before the headers").await;

    let timing_out = chat::request(&format!("{}/timeout", fixture.url()), 10, 5);
    let request = timing_out.header(FAIL, "hang").body(chat::streaming()).unwrap();
    assert_eq!(client.request(request).await.unwrap().status(), 504);
    fixture.wait_settled("a route timeout").await;

    let denied = chat::request(&format!("{}/denied", fixture.url()), 10, 5);
    let request = denied.body(chat::streaming()).unwrap();
    assert_eq!(client.request(request).await.unwrap().status(), 403);
    fixture.wait_settled("a denial by a later filter").await;

    assert_eq!(metric(&fixture.lab, 0, "evenkeel_repairs_total{kind=\"dropped\"}").await, 0.0);
    assert_eq!(metric(&fixture.lab, 0, "evenkeel_settles_total{result=\"unknown\"}").await, 0.0);
}

#[tokio::test]
async fn a_full_pool_refuses_the_request() {
    let Some(fixture) = Fixture::start("cap: 1\nfull_retry_after: 3s").await else { return };
    let client = chat::client();
    let _streams =
        [open(&client, &fixture.url(), ENDLESS).await, open(&client, &fixture.url(), ENDLESS).await];
    let response = client.request(fixture.request(5).body(chat::streaming()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "3");
    let body: serde_json::Value = serde_json::from_str(&chat::text(response).await.unwrap()).unwrap();
    assert_eq!(body["error"]["code"], "pool_full");
    assert_eq!(fixture.lab.mock_in_flight(), [1, 1], "the refused request reached no host");
    assert_eq!(by_table(&fixture.lab, 0).await.unwrap().values().copied().collect::<Vec<_>>(), [1, 1]);
}

/// A client cannot choose its host, because the plugin removes the client's header.
#[tokio::test]
async fn the_clients_override_header_is_ignored() {
    let Some(fixture) = Fixture::start("").await else { return };
    let client = chat::client();
    let favourite = fixture.lab.hosts()[0].to_string();
    let mut hosts = std::collections::BTreeSet::new();
    let mut open_streams = Vec::new();
    for _ in 0..4 {
        let request = fixture.request(ENDLESS).header(OVERRIDE_HOST_HEADER, &favourite);
        let response = client.request(request.body(chat::streaming()).unwrap()).await.unwrap();
        hosts.insert(response.headers()[HOST].to_str().unwrap().to_owned());
        open_streams.push(response);
    }
    assert_eq!(hosts.len(), 2);
    assert_eq!(fixture.lab.mock_in_flight(), [2, 2]);
}
