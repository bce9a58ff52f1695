//! Every ending of a request gives its lease back by a Settle of its own. KeepAlives are a minute apart here: none can
//! mend what a Settle forgot.

use std::time::Duration;

use evenkeel_loadtest::{
    lab::{Lab, Policy, wait},
    mock::FAIL,
};

use crate::{
    gateway::{ENDLESS, by_table, metric, open, roomy, within},
    support,
};

const RELEASED: &str = "evenkeel_settles_total{result=\"released\"}";
const LIMIT: Duration = Duration::from_secs(10);

struct Chain {
    lab: Lab,
    settled: f64,
}

impl Chain {
    async fn start(pool_yaml: &str) -> Option<Self> {
        let builder = Lab::builder().hosts(2).envoys(1).sidecars(1).engine(roomy()).pool_yaml(pool_yaml);
        let builder = builder.keep_alive_interval(Duration::from_secs(60)).plugin_config(|config| {
            config["deadline_ms"] = 2000.into();
        });
        Some(Self { lab: support::start(builder).await?, settled: 0.0 })
    }

    fn url(&self) -> String {
        self.lab.envoys()[0].url(Policy::Evenkeel)
    }

    fn request(&self, output: u32) -> http::request::Builder {
        support::chat(&self.url(), 10, output)
    }

    /// One more lease was given back, and none is left.
    async fn settles(&mut self, ending: &str) {
        self.settled += 1.0;
        within(LIMIT, &format!("the lease is given back after {ending}"), || async {
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
async fn every_ending_settles() {
    let Some(mut chain) = Chain::start("").await else { return };
    let client = support::client();

    let response = client.request(chain.request(5).body(support::streaming()).unwrap()).await.unwrap();
    assert!(support::text(response).await.unwrap().contains("[DONE]"));
    chain.settles("a complete stream").await;

    let whole = http_body_util::Full::from(r#"{"model":"mock","messages":[]}"#);
    let response = client.request(chain.request(5).body(whole).unwrap()).await.unwrap();
    assert!(support::text(response).await.unwrap().contains("usage"));
    chain.settles("a complete body").await;

    for (fail, status) in [("503", 503), ("404-empty", 404), ("reset", 503)] {
        let request = chain.request(5).header(FAIL, fail).body(support::streaming()).unwrap();
        assert_eq!(client.request(request).await.unwrap().status(), status, "{fail}");
        chain.settles(fail).await;
    }

    let request = chain.request(9).header(FAIL, "cut").body(support::streaming()).unwrap();
    let response = client.request(request).await.unwrap();
    support::text(response).await.unwrap_err();
    chain.settles("a stream cut by the upstream").await;

    let leaving = support::client();
    let stream = open(&leaving, &chain.url(), ENDLESS).await;
    drop((stream, leaving));
    chain.settles("a client that left in mid-stream").await;

    let leaving = support::client();
    let request = chain.request(5).header(FAIL, "hang").body(support::streaming()).unwrap();
    let hanging = tokio::spawn(leaving.request(request));
    wait::until("the request to hang", LIMIT, async || chain.lab.mock_in_flight().iter().sum::<u64>() == 1)
        .await
        .unwrap();
    hanging.abort();
    drop(leaving);
    chain.settles("a client that left before the headers").await;

    let timing_out = support::chat(&format!("{}/timeout", chain.url()), 10, 5);
    let request = timing_out.header(FAIL, "hang").body(support::streaming()).unwrap();
    assert_eq!(client.request(request).await.unwrap().status(), 504);
    chain.settles("a timeout of the route").await;

    let denied = support::chat(&format!("{}/denied", chain.url()), 10, 5);
    let request = denied.body(support::streaming()).unwrap();
    assert_eq!(client.request(request).await.unwrap().status(), 403);
    chain.settles("a denial by a later filter").await;

    assert_eq!(metric(&chain.lab, 0, "evenkeel_repairs_total{kind=\"dropped\"}").await, 0.0);
    assert_eq!(metric(&chain.lab, 0, "evenkeel_settles_total{result=\"unknown\"}").await, 0.0);
}

#[tokio::test]
async fn a_full_pool_is_answered_by_the_gateway() {
    let Some(chain) = Chain::start("cap: 1\nfull_retry_after: 3s").await else { return };
    let client = support::client();
    let _streams = [open(&client, &chain.url(), ENDLESS).await, open(&client, &chain.url(), ENDLESS).await];
    let response = client.request(chain.request(5).body(support::streaming()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "3");
    let body: serde_json::Value = serde_json::from_str(&support::text(response).await.unwrap()).unwrap();
    assert_eq!(body["error"]["code"], "pool_full");
    assert_eq!(chain.lab.mock_in_flight(), [1, 1], "the refused request reached no host");
    assert_eq!(by_table(&chain.lab, 0).await.unwrap().values().copied().collect::<Vec<_>>(), [1, 1]);
}

/// A client cannot choose its host: what it puts in the header is dropped.
#[tokio::test]
async fn the_clients_own_choice_is_ignored() {
    let Some(chain) = Chain::start("").await else { return };
    let client = support::client();
    let favourite = chain.lab.hosts()[0].to_string();
    let mut hosts = std::collections::BTreeSet::new();
    let mut open_streams = Vec::new();
    for _ in 0..4 {
        let request = chain.request(ENDLESS).header(evenkeel_loadtest::lab::PICK_HEADER, &favourite);
        let response = client.request(request.body(support::streaming()).unwrap()).await.unwrap();
        hosts.insert(response.headers()[evenkeel_loadtest::mock::HOST].to_str().unwrap().to_owned());
        open_streams.push(response);
    }
    assert_eq!(hosts.len(), 2);
    assert_eq!(chain.lab.mock_in_flight(), [2, 2]);
}
