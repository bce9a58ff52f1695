//! Gateways whose requests pass without limits, and what else the overview reports first.

use std::time::Duration;

use evenkeel_config::Config;
use evenkeel_proto::v1::{
    self as pb, FromWorker, admit_answer, admit_response::Answer, inspect_client::InspectClient,
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::support::{
    command::prints,
    eventually,
    process::Process,
    redis::Redis,
    requests::{admit, held},
    sidecar::{Sidecar, run},
    tls::{Authority, Pair},
    worker::{Link, hello},
};

const CONFIG: &str = "keep_alive_interval: 60s\npools: [{cluster: llm, endpoints: [{address: 'a:1'}]}]\n";
const LIMIT: Duration = Duration::from_secs(30);

/// Returns `Ok` once a condition holds, for [`eventually`].
fn when(holds: bool, seen: impl std::fmt::Debug) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("{seen:?}")) }
}

/// Connects a worker of a gateway.
async fn connect(sidecar: &Sidecar, gateway: &str, holder: &str) -> Link {
    connect_to(&sidecar.url(), gateway, holder).await
}

async fn connect_to(url: &str, gateway: &str, holder: &str) -> Link {
    let mut first = hello(holder, &[7; 16]);
    first.hello.as_mut().unwrap().gateway = gateway.into();
    Link::open(url, first).await.unwrap()
}

/// Sends a list with requests that passed, and waits until the sidecar has applied it.
async fn list(link: &mut Link, unanswered: pb::Unanswered) {
    let list = pb::KeepAliveRequest { unanswered: Some(unanswered), ..pb::KeepAliveRequest::default() };
    link.send(FromWorker { leases: Some(list), ..FromWorker::default() }).await;
    while link.next().await.unwrap().repaired.is_none() {}
}

fn passed(period: u64, since_ms: u64, last_ms: u64, unreachable: u64, late: u64) -> pb::Unanswered {
    let requests = Some(pb::UnansweredCounts { unreachable, late, failed: 0 });
    pb::Unanswered { period, since_ms, last_ms, requests, reported: None }
}

async fn gateways(sidecar: &Sidecar) -> Vec<pb::GatewayState> {
    let answer = sidecar.inspect.clone().list_gateways(pb::ListGatewaysRequest::default()).await;
    answer.unwrap().into_inner().gateways
}

async fn overview(sidecar: &Sidecar) -> pb::Overview {
    overview_of(sidecar.inspect.clone()).await
}

async fn overview_of(mut inspect: InspectClient<Channel>) -> pb::Overview {
    inspect.get_overview(pb::GetOverviewRequest::default()).await.unwrap().into_inner()
}

/// A gateway without limits stands in the overview of every sidecar, with since when, why, and how many requests.
#[tokio::test]
async fn every_sidecar_shows_a_gateway_without_limits() {
    let redis = Redis::start();
    let config = format!("{CONFIG}{}", redis.store(""));
    let (here, there) = (Sidecar::start(&config).await, Sidecar::start(&config).await);
    let mut link = connect(&here, "router~10.0.0.1~gw-3.istio~istio.svc", "h").await;
    let _quiet = connect(&there, "gw-4", "i").await;
    list(&mut link, passed(1, 60_000, 1000, 2, 5)).await;
    for sidecar in [&here, &there] {
        eventually(LIMIT, "the overview shows the gateway", || async {
            let gaps = overview(sidecar).await.gaps;
            let [gap] = &gaps[..] else { return Err(format!("{gaps:?}")) };
            let unlimited = gap.unlimited.unwrap();
            assert_eq!((gap.gateway.as_str(), gap.workers, gap.lost_at_ms), ("gw-3.istio", 1, 0));
            assert_eq!((unlimited.unreachable, unlimited.late, unlimited.requests), (2, 5, 7));
            assert!(unlimited.now && unlimited.last_at_ms - unlimited.since_at_ms == 59_000);
            Ok(())
        })
        .await;
        eventually(LIMIT, "both gateways are listed", || async {
            let names: Vec<String> = gateways(sidecar).await.into_iter().map(|g| g.gateway).collect();
            when(names == ["gw-3.istio", "gw-4"], names)
        })
        .await;
    }
    let table = prints(&there, "gateways").await;
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[1].starts_with("gw-3.istio  not limited        1"), "{table}");
    assert!(
        lines[1].contains("  now    2 unreachable, 5 late") && lines[2].starts_with("gw-4        connected"),
        "{table}"
    );
    let reason = |reason| format!("evenkeel_unlimited_requests_total{{reason=\"{reason}\"}}");
    assert_eq!(here.metric(&reason("unreachable")).await, 2.0);
    assert_eq!(
        (here.metric(&reason("late")).await, here.metric("evenkeel_gateways_unlimited").await),
        (5.0, 1.0)
    );
    assert_eq!(there.metric("evenkeel_gateways_unlimited").await, 0.0);
    // The next list repeats the requests, and then all is well.
    list(&mut link, passed(1, 60_000, 1000, 2, 5)).await;
    assert_eq!(here.metric(&reason("late")).await, 5.0, "each request counts once");
    list(&mut link, passed(1, 120_000, 31_000, 2, 5)).await;
    assert!(overview(&here).await.gaps.is_empty());
    let ended = gateways(&here).await.into_iter().find_map(|gateway| gateway.unlimited).unwrap();
    assert!(!ended.now && ended.requests == 7, "the list still shows the period");
}

/// A gateway whose connection broke is listed as lost until it connects to any sidecar. One that says goodbye is not.
#[tokio::test]
async fn a_lost_gateway_is_listed_until_it_is_back() {
    let sidecar = Sidecar::start(CONFIG).await;
    let (lost, leaving) = (connect(&sidecar, "lost", "h").await, connect(&sidecar, "leaving", "i").await);
    leaving.send(FromWorker { goodbye: true, ..FromWorker::default() }).await;
    drop(lost);
    let state = |gateways: &[pb::GatewayState]| -> Vec<(String, bool)> {
        gateways.iter().map(|gateway| (gateway.gateway.clone(), gateway.lost_at_ms > 0)).collect()
    };
    eventually(LIMIT, "one gateway is lost", || async {
        let state = state(&gateways(&sidecar).await);
        when(state == [("lost".into(), true)], state)
    })
    .await;
    assert!(overview(&sidecar).await.gaps.is_empty(), "its requests may be none");
    let _back = connect(&sidecar, "lost", "h").await;
    assert_eq!(state(&gateways(&sidecar).await), [("lost".into(), false)]);
}

/// While the store is away, a gateway's limits are those of its sidecar alone. Its own sidecar shows that at once.
#[tokio::test]
async fn requests_without_the_store_are_shown() {
    let mut redis = Redis::start();
    let sidecar = Sidecar::start(&format!("{CONFIG}{}", redis.store(""))).await;
    let mut link = connect(&sidecar, "gw", "h").await;
    redis.kill();
    let mut admitted = 0;
    for lease in 1..=3 {
        let admit = pb::AdmitRequest { holder: String::new(), ..admit("llm", lease) };
        link.send(FromWorker { admit: Some(admit), ..FromWorker::default() }).await;
        let answer = loop {
            if let Some(answer) = link.next().await.unwrap().answers.pop() {
                break answer.answer.unwrap();
            }
        };
        let admit_answer::Answer::Response(response) = answer else { panic!("{answer:?}") };
        let Some(Answer::Admitted(answer)) = response.answer else { panic!("{response:?}") };
        admitted += u64::from(answer.basis() == pb::Basis::Local);
    }
    let gaps = overview(&sidecar).await.gaps;
    let local = gaps.first().and_then(|gateway| gateway.local);
    assert!(
        local.is_some_and(|gap| gap.now && gap.without_store == admitted && admitted > 0),
        "{gaps:?}, {admitted}"
    );
    assert!(gaps[0].unlimited.is_none());
    assert_eq!(sidecar.metric("evenkeel_gateways_unlimited").await, 0.0);
}

#[tokio::test]
async fn numbers_that_cannot_be_are_rejected() {
    let sidecar = Sidecar::start(CONFIG).await;
    let mut link = connect(&sidecar, "gw", "h").await;
    let list = pb::KeepAliveRequest {
        unanswered: Some(passed(1, u64::MAX, u64::MAX, 1 << 53, 0)),
        pools: vec![held("llm", &[])],
        ..pb::KeepAliveRequest::default()
    };
    link.send(FromWorker { leases: Some(list), ..FromWorker::default() }).await;
    let error = link.end().await;
    assert_eq!(error.message(), "leases.unanswered.requests: must be at most 2^53-1, got 9007199254740992");
}

/// A sidecar that was killed stands in the overview of the others, until another takes its place. One that shut down does
/// not.
#[tokio::test]
async fn a_sidecar_that_was_killed_is_shown() {
    let redis = Redis::start();
    let config = format!("{CONFIG}{}", redis.store(""));
    let sidecar = Sidecar::start(&config).await;
    let directories = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (killed, url, _) = Process::start(&config, directories[0].path()).await;
    let (ending, ending_url, _) = Process::start(&config, directories[1].path()).await;
    let _links = [connect_to(&url, "gw-1", "h").await, connect_to(&ending_url, "gw-2", "i").await];
    eventually(LIMIT, "all report", || async {
        let sidecars = overview(&sidecar).await.totals.unwrap().sidecars;
        let listed = gateways(&sidecar).await;
        when(sidecars == Some(3) && listed.len() == 2, (sidecars, listed))
    })
    .await;
    ending.signal("TERM");
    killed.signal("KILL");
    eventually(LIMIT, "the killed sidecar is shown", || async {
        let lost = overview(&sidecar).await.lost_sidecars;
        when(lost.len() == 1 && lost[0].seen_at_ms > 0 && !lost[0].alive, lost)
    })
    .await;
    eventually(LIMIT, "the gateways of both are lost", || async {
        let gateways = gateways(&sidecar).await;
        let lost = gateways.iter().filter(|gateway| gateway.workers == 0 && gateway.lost_at_ms > 0);
        when(lost.count() == 2, gateways)
    })
    .await;
    assert_eq!(overview(&sidecar).await.lost_sidecars.len(), 1, "the other sidecar shut down");
    // A gateway is found again at whatever sidecar it reaches.
    let _back = connect(&sidecar, "gw-1", "h").await;
    let found = gateways(&sidecar).await.into_iter().find(|gateway| gateway.gateway == "gw-1").unwrap();
    assert_eq!((found.workers, found.lost_at_ms), (1, 0));
}

/// A certificate that has expired or expires within a week stands in the overview, with its sidecar.
#[tokio::test]
async fn a_certificate_that_expires_soon_is_shown() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    for (days, is_shown) in [(3_i64, true), (30, false)] {
        let until = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * days);
        let pair: Pair = authority.sign_until(&["127.0.0.1"], until);
        pair.write(directory.path(), "server");
        let path = directory.path().join("evenkeel.yaml");
        let listen = "listen: {grpc: '127.0.0.1:0', http: '127.0.0.1:0'}\n";
        std::fs::write(&path, format!("{listen}tls: {{cert_file: server.crt, key_file: server.key}}\n"))
            .unwrap();
        let sidecar = run(Config::load(&path).unwrap()).await;
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&authority.pem));
        let url = format!("https://{}", sidecar.addresses.grpc.as_ref().unwrap());
        let channel = Endpoint::from_shared(url).unwrap().tls_config(tls).unwrap().connect().await.unwrap();
        let inspect = InspectClient::new(channel);
        eventually(LIMIT, "the time of the certificate is known", || async {
            let sidecars =
                inspect.clone().list_sidecars(pb::ListSidecarsRequest {}).await.unwrap().into_inner();
            let known = sidecars.sidecars.first().map_or(0, |sidecar| sidecar.certificate_expires_at_ms);
            when(known > 0, known)
        })
        .await;
        let expiring = overview_of(inspect).await.expiring;
        assert_eq!(expiring.len(), usize::from(is_shown), "{expiring:?}");
        sidecar.shutdown.cancel();
        sidecar.task.await.unwrap().unwrap();
    }
}
