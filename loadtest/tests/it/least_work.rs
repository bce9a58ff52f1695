//! Placement by work with real gateways, sidecars and Redis: the plugin reads real prompts, and reports first tokens.

use std::time::Duration;

use evenkeel_loadtest::{
    lab::{Lab, Policy, WORK_CLUSTER},
    replay::{Client, Route},
    workload::{Request, prompt},
};
use evenkeel_proto::v1::{GetPoolRequest, inspect_client::InspectClient};
use tokio::task::JoinHandle;

use crate::support::{
    admin::connect,
    lab::{self, exact_plugin, roomy_engine},
    wait::within,
};

const WITHIN: Duration = Duration::from_secs(20);
/// Output of a response that lasts longer than the test.
const LONG: u32 = 100_000;

/// Sends a chat request through a gateway, in a task.
fn send(lab: &Lab, gateway: usize, prompt: u32, output: u32) -> JoinHandle<Option<String>> {
    let url = lab.envoys()[gateway].url(Policy::EvenkeelLeastWork);
    tokio::spawn(async move {
        let request = Request { prompt, output, ..Request::default() };
        let body = prompt::chat_request(&request, prompt as usize);
        Client::new(Duration::from_secs(60)).send(&url, &request, body, Route::Gateway).await.error
    })
}

/// Returns the unread tokens of each endpoint, as one sidecar reads them, in ascending order.
async fn unread(lab: &Lab) -> Result<Vec<u64>, String> {
    let request = GetPoolRequest { cluster: WORK_CLUSTER.into(), ..Default::default() };
    let pool = InspectClient::new(connect(lab, 0).await?).get_pool(request).await;
    let endpoints = pool.map_err(|error| error.to_string())?.into_inner().endpoints;
    let mut unread: Vec<u64> = endpoints.into_iter().map(|endpoint| endpoint.unread_tokens).collect();
    unread.sort_unstable();
    Ok(unread)
}

async fn wait_in_flight(lab: &Lab, expected: [u64; 2]) {
    within(WITHIN, "requests on the hosts", || async {
        let mut hosts = lab.mock_in_flight();
        hosts.sort_unstable();
        if hosts == expected { Ok(()) } else { Err(format!("{hosts:?}")) }
    })
    .await;
}

async fn wait_unread(lab: &Lab, expected: [u64; 2]) {
    within(WITHIN, "unread tokens in the table", || async {
        let unread = unread(lab).await?;
        if unread == expected { Ok(()) } else { Err(format!("{unread:?}")) }
    })
    .await;
}

#[tokio::test]
async fn requests_avoid_the_host_of_a_long_prompt_until_it_has_been_read() {
    let builder = Lab::builder().hosts(2).envoys(2).sidecars(2).redis().engine(roomy_engine());
    let builder = builder.policies([Policy::EvenkeelLeastWork]).plugin_config(exact_plugin);
    let Some(lab) = lab::start(builder).await else { return };
    lab.fleet().hold();
    let long = send(&lab, 0, 50_000, LONG);
    wait_in_flight(&lab, [0, 1]).await;
    // By the number of requests, every second of them would go to the host of the long prompt.
    let short: Vec<_> = (0..5).map(|i| send(&lab, i % 2, 100, 1)).collect();
    wait_in_flight(&lab, [1, 5]).await;
    wait_unread(&lab, [500, 50_000]).await;

    // The long response goes on, but its prompt has been read.
    lab.fleet().release();
    for request in short {
        assert_eq!(request.await.unwrap(), None);
    }
    wait_unread(&lab, [0, 0]).await;
    assert!(!long.is_finished());
    long.abort();
    lab.wait_idle(WITHIN).await.unwrap();
}
