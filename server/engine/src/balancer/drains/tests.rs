use evenkeel_config::Config;
use evenkeel_domain::{
    Endpoint, HolderId, LeaseId, Roster,
    choice::Load,
    verdict::{Reason, Verdict},
};
use evenkeel_store::{
    Table,
    memory::{MemoryMap, MemoryStore},
};
use evenkeel_telemetry::Metrics;

use super::{super::directory::Directory, *};
use crate::{
    activity::Recorder,
    balancer::{PickRequest, pool_entry::Candidate, view::PoolView},
    change_log::tests::change_log,
};

const POOLS: &str = "
pools:
- {cluster: llm, cap: 4, endpoints: [{address: 'm-0:80'}, {address: 'm-1:80'}, {address: 'm-2:80'}]}
- {cluster: other, endpoints: [{address: 'm-0:80'}, {address: 'o-0:80'}]}
unlisted_pools: {accept: false}
";

fn drains(yaml: &str) -> Drains {
    let config = Config::parse(yaml).unwrap();
    let ttl = config.holder_ttl();
    let (directory, _) = Directory::new(config.pools, config.unlisted);
    let (metrics, store) = (Metrics::new().unwrap(), Arc::new(MemoryStore::new(ttl)));
    let recorder = Arc::new(Recorder::new(String::new(), metrics.refusals_unrecorded.clone()));
    let balancer = Arc::new(Balancer::new(directory, store, recorder, metrics));
    Drains::new(Arc::new(MemoryMap::new(DRAINS_MAX)), balancer, Arc::default(), change_log())
}

impl Drains {
    fn choice(&self, cluster: &str, offered: &[&str]) -> Vec<String> {
        let offered =
            offered.iter().map(|address| Candidate { address: (*address).to_owned(), weight: 0.0, cap: 0 });
        let entry = self.balancer.directory.resolve("", cluster).unwrap();
        let roster = entry.roster(offered.collect()).unwrap();
        roster.endpoints().iter().map(|endpoint| endpoint.address.to_string()).collect()
    }
}

#[tokio::test]
async fn a_drained_endpoint_gets_no_requests_until_it_is_undrained() {
    let drains = drains(POOLS);
    let entry = drains.balancer.directory.resolve("", "llm").unwrap();
    let (own, offered) = (entry.roster(Vec::new()).unwrap(), ["m-1:80", "x:80"]);
    assert_eq!(drains.choice("llm", &offered), offered);
    let drained = drains.drain("m-1:80", Some(("", "llm")), "a note", "ops").await.unwrap();
    assert_eq!((drained.pool.as_ref(), &*drained.note), (Some(&entry.pool.id), "a note"));
    assert!(drained.at_ms > 0);
    assert_eq!(drains.choice("llm", &[]), ["m-0:80", "m-2:80"]);
    assert_eq!(drains.choice("llm", &offered), ["x:80"], "a list offered before");
    assert_eq!(drains.choice("llm", &["m-1:80", "y:80"]), ["y:80"], "a new list");
    drains.drain("m-0:80", None, "", "ops").await.unwrap();
    assert_eq!(drains.choice("llm", &[]), ["m-2:80"]);
    assert_eq!(drains.choice("other", &[]), ["o-0:80"], "in every pool");
    drains.undrain("m-0:80", None, "ops").await.unwrap();
    drains.undrain("m-1:80", Some(("any", "llm")), "ops").await.unwrap();
    assert!(Arc::ptr_eq(&entry.roster(Vec::new()).unwrap(), &own), "the same roster as before");
    assert_eq!(drains.choice("llm", &offered), offered);
    assert_eq!(drains.list().await.unwrap(), []);
}

#[tokio::test]
async fn a_drain_applies_to_later_pools_and_endpoints() {
    let drains = drains(&POOLS.replace("accept: false", "accept: true"));
    drains.choice("new", &["n-0:80"]);
    drains.drain("n-0:80", None, "", "ops").await.unwrap();
    assert_eq!(drains.choice("newer", &["n-0:80", "n-1:80"]), ["n-1:80"]);
    let entry = drains.balancer.directory.resolve("", "llm").unwrap();
    let found = ["n-0:80", "n-1:80"].map(|a| Endpoint { address: a.into(), weight: 1.0, cap: 2 });
    entry.set_roster(Roster::new(found.to_vec()));
    assert_eq!(drains.choice("llm", &[]), ["n-1:80"], "as discovery finds it");
    let table = Table {
        current: true,
        loads: [("n-0:80".into(), Load { in_flight: 1, unread: 0 })].into(),
        ..Table::default()
    };
    let view = PoolView::new(&entry, &table);
    let seen: Vec<_> = view.endpoints.iter().map(|e| (&*e.address, e.listed, e.drained)).collect();
    assert_eq!(seen, [("n-0:80", true, true), ("n-1:80", true, false)]);
    assert_eq!((view.capacity, view.in_flight), (Some(2), 1));
}

#[tokio::test]
async fn the_verdict_says_that_all_endpoints_are_drained() {
    let drains = drains(&POOLS.replace("accept: false", "accept: true"));
    for endpoint in ["m-0:80", "m-1:80", "m-2:80"] {
        drains.drain(endpoint, None, "", "ops").await.unwrap();
    }
    let pick = async |cluster: &str, offered: &[&str]| {
        let entry = drains.balancer.directory.resolve("", cluster).unwrap();
        let request = PickRequest {
            route: "".into(),
            cluster: cluster.into(),
            holder: HolderId::new("h").unwrap(),
            lease: LeaseId::new(1).unwrap(),
            offered: offered
                .iter()
                .map(|address| Candidate { address: (*address).to_owned(), weight: 0.0, cap: 0 })
                .collect(),
            prompt_tokens: None,
            prefix: Default::default(),
        };
        drains.balancer.pick(&entry, request).await.unwrap().verdict
    };
    assert_eq!(pick("llm", &[]).await, Verdict::Refused(Reason::AllDrained));
    assert_eq!(pick("third", &["m-0:80"]).await, Verdict::Refused(Reason::AllDrained));
    assert_eq!(pick("third", &[]).await, Verdict::Refused(Reason::NoEndpoints), "the pool has no endpoints");
}

#[tokio::test]
async fn an_unknown_endpoint_is_rejected_and_similar_endpoints_are_named() {
    let drains = drains(POOLS);
    let error = async |endpoint: &str, pool: Option<(&str, &str)>| {
        drains.drain(endpoint, pool, "", "ops").await.unwrap_err().to_string()
    };
    let unknown = error("m-3:80", Some(("", "llm"))).await;
    assert!(unknown.starts_with("endpoint \"m-3:80\" (nearest: m-0:80, m-1:80, m-2:80) not found"));
    assert!(error("o-11:80", None).await.contains("(nearest: o-0:80, "));
    assert!(error("o-0:80", Some(("", "llm"))).await.contains("not found"), "of another pool");
    assert!(error("m-0:80", Some(("", "lm"))).await.starts_with("pool of route"));
    assert!(error("", None).await.starts_with("endpoint: must be"));
    assert!(error("a\nb", None).await.starts_with("endpoint: must be"));
    let note = drains.drain("m-0:80", None, &"n".repeat(257), "ops").await.unwrap_err().to_string();
    assert!(note.starts_with("note: must be"), "{note}");
    assert!(
        drains.list().await.unwrap().is_empty()
            && drains.versioned.change_log.list(0, "").await.unwrap().0.is_empty()
    );
}

#[tokio::test]
async fn an_endpoint_is_accepted_if_the_pools_endpoints_are_unknown() {
    let drains = drains("pools: [{cluster: llm}]");
    drains.drain("m-9:80", None, "", "ops").await.unwrap();
    assert_eq!(drains.choice("llm", &["m-9:80", "m-1:80"]), ["m-1:80"]);
    // The request above offered endpoints, so the sidecar knows the endpoints of the pool now.
    assert!(drains.drain("m-8:80", None, "", "ops").await.is_err());
}

#[tokio::test]
async fn an_endpoint_that_is_not_drained_cannot_be_undrained() {
    let drains = drains(POOLS);
    let error =
        async |endpoint: &str, pool| drains.undrain(endpoint, pool, "ops").await.unwrap_err().to_string();
    assert!(error("m-0:80", None).await.starts_with("drain of m-0:80 not found"));
    drains.drain("m-0:80", None, "", "ops").await.unwrap();
    drains.drain("m-0:80", Some(("r", "other")), "", "ops").await.unwrap();
    let here = error("m-0:80", Some(("", "llm"))).await;
    assert!(here.starts_with("drain of m-0:80 in llm (it is in every pool, in other) not found"), "{here}");
}

#[tokio::test]
async fn drains_are_in_the_change_log() {
    let drains = drains(POOLS);
    for note in ["first", "again"] {
        drains.drain("m-0:80", Some(("", "llm")), note, "ops").await.unwrap();
    }
    assert_eq!(drains.list().await.unwrap()[0].note, "again");
    drains.undrain("m-0:80", Some(("", "llm")), "night").await.unwrap();
    let log = drains.versioned.change_log.list(0, "").await.unwrap().0;
    let changes: Vec<_> = log
        .iter()
        .map(|c| [&c.who, &c.what, &c.target, &c.before, &c.after, &c.note].map(String::as_str))
        .collect();
    let at = "m-0:80 in llm";
    assert_eq!(
        changes,
        [
            ["night", "endpoint.undrain", at, "drained", "in use", ""],
            ["ops", "endpoint.drain", at, "drained", "drained", "again"],
            ["ops", "endpoint.drain", at, "in use", "drained", "first"],
        ]
    );
}
