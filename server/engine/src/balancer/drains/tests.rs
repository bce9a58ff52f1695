use evenkeel_config::Config;
use evenkeel_domain::verdict::{Reason, Verdict};
use evenkeel_domain::{Endpoint, HolderId, LeaseId, Roster};
use evenkeel_store::{
    Table,
    memory::{MemoryCounters, MemoryDrains, MemoryStore},
    resilient::ResilientStore,
};
use evenkeel_telemetry::Metrics;

use super::*;
use crate::{
    activity::Recorder,
    audit::tests::audit,
    balancer::{PickRequest, directory::Candidate, view::PoolView},
};

const POOLS: &str = "
pools:
- {cluster: llm, cap: 4, endpoints: [{address: 'm-0:80'}, {address: 'm-1:80'}, {address: 'm-2:80'}]}
- {cluster: other, endpoints: [{address: 'm-0:80'}, {address: 'o-0:80'}]}
unlisted_pools: {accept: false}
";

fn book(yaml: &str) -> Arc<DrainBook> {
    let config = Config::parse(yaml).unwrap();
    let ttl = config.holder_ttl();
    let (directory, _) = Directory::new(config.pools, config.unlisted);
    let (metrics, tasks) = (Metrics::new().unwrap(), tokio_util::task::TaskTracker::new());
    let counters = Arc::new(MemoryCounters::default());
    let (memory, end) = (MemoryStore::new(ttl), CancellationToken::new());
    let store = ResilientStore::embedded(memory, counters, ttl, Arc::clone(&metrics), tasks, end);
    let recorder = Arc::new(Recorder::new(String::new(), metrics.refusals_unrecorded.clone()));
    let balancer = Arc::new(Balancer::new(directory, store, recorder, metrics));
    DrainBook::new(Arc::new(MemoryDrains::default()), balancer, Arc::default(), audit())
}

impl DrainBook {
    fn choice(&self, cluster: &str, offered: &[&str]) -> Vec<String> {
        let offered =
            offered.iter().map(|address| Candidate { address: (*address).to_owned(), weight: 0.0, cap: 0 });
        let entry = self.balancer.directory.resolve("", cluster).unwrap();
        let roster = entry.roster(offered.collect()).unwrap();
        roster.endpoints().iter().map(|endpoint| endpoint.address.to_string()).collect()
    }
}

#[tokio::test]
async fn what_is_drained_leaves_the_choice_and_comes_back() {
    let book = book(POOLS);
    let entry = book.balancer.directory.resolve("", "llm").unwrap();
    let (own, offered) = (entry.roster(Vec::new()).unwrap(), ["m-1:80", "x:80"]);
    assert_eq!(book.choice("llm", &offered), offered);
    let drained = book.drain("m-1:80", Some(("", "llm")), "a note", "ops").await.unwrap();
    assert_eq!((drained.pool.as_ref(), &*drained.note), (Some(&entry.pool.id), "a note"));
    assert!(drained.at_ms > 0);
    assert_eq!(book.choice("llm", &[]), ["m-0:80", "m-2:80"]);
    assert_eq!(book.choice("llm", &offered), ["x:80"], "a list that was known");
    assert_eq!(book.choice("llm", &["m-1:80", "y:80"]), ["y:80"], "and a new one");
    book.drain("m-0:80", None, "", "ops").await.unwrap();
    assert_eq!(book.choice("llm", &[]), ["m-2:80"]);
    assert_eq!(book.choice("other", &[]), ["o-0:80"], "in every pool");
    book.undrain("m-0:80", None, "ops").await.unwrap();
    book.undrain("m-1:80", Some(("any", "llm")), "ops").await.unwrap();
    assert!(Arc::ptr_eq(&entry.roster(Vec::new()).unwrap(), &own), "the roster that was");
    assert_eq!(book.choice("llm", &offered), offered);
    assert_eq!(book.list().await.unwrap(), []);
}

#[tokio::test]
async fn pools_to_come_and_endpoints_to_come_are_drained_too() {
    let book = book(&POOLS.replace("accept: false", "accept: true"));
    book.choice("new", &["n-0:80"]);
    book.drain("n-0:80", None, "", "ops").await.unwrap();
    assert_eq!(book.choice("newer", &["n-0:80", "n-1:80"]), ["n-1:80"]);
    let entry = book.balancer.directory.resolve("", "llm").unwrap();
    let found = ["n-0:80", "n-1:80"].map(|a| Endpoint { address: a.into(), weight: 1.0, cap: 2 });
    entry.set_roster(Roster::new(found.to_vec()));
    assert_eq!(book.choice("llm", &[]), ["n-1:80"], "as discovery finds it");
    let table = Table { in_flight: [("n-0:80".into(), 1)].into(), ..Table::default() };
    let view = PoolView::new(&entry, &table, true);
    let seen: Vec<_> = view.endpoints.iter().map(|e| (&*e.address, e.listed, e.drained)).collect();
    assert_eq!(seen, [("n-0:80", true, true), ("n-1:80", true, false)]);
    assert_eq!((view.capacity, view.in_flight), (Some(2), 1));
}

#[tokio::test]
async fn where_all_are_drained_the_answer_says_so() {
    let book = book(&POOLS.replace("accept: false", "accept: true"));
    for endpoint in ["m-0:80", "m-1:80", "m-2:80"] {
        book.drain(endpoint, None, "", "ops").await.unwrap();
    }
    let pick = async |cluster: &str, offered: &[&str]| {
        let entry = book.balancer.directory.resolve("", cluster).unwrap();
        let request = PickRequest {
            route: "".into(),
            cluster: cluster.into(),
            holder: HolderId::new("h").unwrap(),
            lease: LeaseId::new(1).unwrap(),
            offered: offered
                .iter()
                .map(|address| Candidate { address: (*address).to_owned(), weight: 0.0, cap: 0 })
                .collect(),
        };
        book.balancer.pick(&entry, request).await.unwrap()
    };
    assert_eq!(pick("llm", &[]).await, Verdict::Refused(Reason::AllDrained));
    assert_eq!(pick("third", &["m-0:80"]).await, Verdict::Refused(Reason::AllDrained));
    assert_eq!(pick("third", &[]).await, Verdict::Refused(Reason::NoEndpoints), "which has none at all");
}

#[tokio::test]
async fn slips_of_the_pen_are_refused_with_what_is_near() {
    let book = book(POOLS);
    let error = async |endpoint: &str, pool: Option<(&str, &str)>| {
        book.drain(endpoint, pool, "", "ops").await.unwrap_err().to_string()
    };
    let unknown = error("m-3:80", Some(("", "llm"))).await;
    assert!(unknown.starts_with("endpoint \"m-3:80\" (nearest: m-0:80, m-1:80, m-2:80) not found"));
    assert!(error("o-11:80", None).await.contains("(nearest: o-0:80, "));
    assert!(error("o-0:80", Some(("", "llm"))).await.contains("not found"), "of another pool");
    assert!(error("m-0:80", Some(("", "lm"))).await.starts_with("pool of route"));
    assert!(error("", None).await.starts_with("endpoint: must be"));
    assert!(error("a\nb", None).await.starts_with("endpoint: must be"));
    let note = book.drain("m-0:80", None, &"n".repeat(257), "ops").await.unwrap_err().to_string();
    assert!(note.starts_with("note: must be"), "{note}");
    assert!(book.list().await.unwrap().is_empty() && book.audit.list(0).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_told_is_drained_on_the_word_of_the_operator() {
    let book = book("pools: [{cluster: llm}]");
    book.drain("m-9:80", None, "", "ops").await.unwrap();
    assert_eq!(book.choice("llm", &["m-9:80", "m-1:80"]), ["m-1:80"]);
    // Now that requests have told, it can be.
    assert!(book.drain("m-8:80", None, "", "ops").await.is_err());
}

#[tokio::test]
async fn what_is_not_drained_cannot_be_undrained() {
    let book = book(POOLS);
    let error =
        async |endpoint: &str, pool| book.undrain(endpoint, pool, "ops").await.unwrap_err().to_string();
    assert!(error("m-0:80", None).await.starts_with("drain of m-0:80 not found"));
    book.drain("m-0:80", None, "", "ops").await.unwrap();
    book.drain("m-0:80", Some(("r", "other")), "", "ops").await.unwrap();
    let here = error("m-0:80", Some(("", "llm"))).await;
    assert!(here.starts_with("drain of m-0:80 in llm (it is in every pool, in other) not found"), "{here}");
}

#[tokio::test]
async fn what_was_drained_is_on_account() {
    let book = book(POOLS);
    for note in ["first", "again"] {
        book.drain("m-0:80", Some(("", "llm")), note, "ops").await.unwrap();
    }
    assert_eq!(book.list().await.unwrap()[0].note, "again");
    book.undrain("m-0:80", Some(("", "llm")), "night").await.unwrap();
    let account = book.audit.list(0).await.unwrap();
    let told: Vec<_> = account
        .iter()
        .map(|c| [&c.who, &c.what, &c.target, &c.before, &c.after, &c.note].map(String::as_str))
        .collect();
    let at = "m-0:80 in llm";
    assert_eq!(
        told,
        [
            ["night", "endpoint.undrain", at, "drained", "in use", ""],
            ["ops", "endpoint.drain", at, "drained", "drained", "again"],
            ["ops", "endpoint.drain", at, "in use", "drained", "first"],
        ]
    );
}
