//! Faults of single nodes and slots of a Redis Cluster. Each affects only its own pools and keys.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use evenkeel_proto::v1::{self as pb, Basis, admit_response::Answer};

use crate::support::{eventually, redis::Cluster, requests::admit_for, sidecar::Sidecar};

const LIMIT: Duration = Duration::from_secs(30);
const POOLS: usize = 60;

fn yaml(cluster: &Cluster, more: &str) -> String {
    let pools: Vec<String> = (0..POOLS)
        .map(|i| format!("{{cluster: p{i}, endpoints: [{{address: 'a:1'}}, {{address: 'b:1'}}]}}"))
        .collect();
    format!(
        "{}keep_alive_interval: 2s\npools: [{}]\n{more}",
        cluster.store(", timeout: 500ms, connect_timeout: 1s"),
        pools.join(", ")
    )
}

async fn basis(s: &Sidecar, pool: usize, lease: u64) -> Basis {
    match s.admit(&format!("p{pool}"), "g", lease).await {
        Answer::Admitted(admitted) => admitted.basis(),
        other => panic!("not admitted: {other:?}"),
    }
}

/// Returns the pools that the sidecar decides without the store.
async fn decided_locally(s: &Sidecar, lease: u64) -> BTreeSet<usize> {
    let mut local = BTreeSet::new();
    for pool in 0..POOLS {
        if basis(s, pool, lease).await != Basis::Shared {
            local.insert(pool);
        }
    }
    local
}

fn key_of(pool: usize) -> String {
    format!("{{|p{pool}}}")
}

/// Guards against one circuit breaker for the whole cluster, which opened for all pools.
#[tokio::test]
async fn a_lost_node_affects_only_its_pools() {
    let mut cluster = Cluster::start_with(&["--cluster-require-full-coverage", "no"]);
    let s = Sidecar::start(&yaml(&cluster, "")).await;
    eventually(LIMIT, "all pools are shared", || async {
        let local = decided_locally(&s, 1).await;
        if local.is_empty() { Ok(()) } else { Err(format!("{local:?}")) }
    })
    .await;
    let of_third: BTreeSet<usize> = (0..POOLS).filter(|pool| cluster.node_of(&key_of(*pool)) == 2).collect();
    cluster.nodes[2].kill();
    // The first calls find out that the node is lost.
    eventually(LIMIT, "the node is lost", || async {
        basis(&s, *of_third.first().unwrap(), 2).await;
        let lost = s.metric("evenkeel_store_nodes_lost").await;
        if lost == 1.0 { Ok(()) } else { Err(lost.to_string()) }
    })
    .await;
    for round in 0..20 {
        assert_eq!(decided_locally(&s, 100 + round).await, of_third, "round {round}");
    }
    let share = of_third.len() as f64 / POOLS as f64;
    eprintln!(
        "of {POOLS} pools on 3 nodes, {:.0} % are decided locally while one node is lost",
        share * 100.0
    );
    assert!((0.15..=0.55).contains(&share), "{share}");
    assert_eq!(s.metric("evenkeel_store_up").await, 0.0);
    assert!(s.get("/readyz").await.1.contains(r#""store_up":true"#), "most pools use the store");
    assert_eq!(s.metric("evenkeel_store_losses_total").await, 1.0);
    cluster.nodes[2].restart();
    eventually(LIMIT, "all pools are shared again", || async {
        let local = decided_locally(&s, 1000).await;
        if local.is_empty() { Ok(()) } else { Err(format!("{local:?}")) }
    })
    .await;
}

/// The counters of a consumer are in one slot.
#[tokio::test]
async fn a_lost_node_affects_only_its_consumers() {
    let mut cluster = Cluster::start_with(&["--cluster-require-full-coverage", "no"]);
    let limits = "limits: [{name: l, counts: requests, amount: 1000, per: 1h, key: [consumer]}]";
    let s = Sidecar::start(&yaml(&cluster, limits).replace("cluster: p0,", "cluster: llm,")).await;
    let admit = |consumer: String, lease| pb::AdmitRequest { ..admit_for(&consumer, "m", lease) };
    let consumers: Vec<String> = (0..30).map(|i| format!("c{i}")).collect();
    for (consumer, lease) in consumers.iter().zip(1..) {
        s.send(admit(consumer.clone(), lease)).await;
    }
    let pool = cluster.node_of("{|llm}");
    let lost = (pool + 1) % 3;
    let node_of = |consumer: &String| cluster.node_of(&format!("{{consumer={consumer}}}"));
    let nodes: BTreeMap<&String, usize> = consumers.iter().map(|c| (c, node_of(c))).collect();
    let (away, here): (Vec<&String>, Vec<&String>) = consumers.iter().partition(|c| nodes[*c] == lost);
    cluster.nodes[lost].kill();
    assert!(!away.is_empty() && !here.is_empty());
    eventually(LIMIT, "the node is lost", || async {
        s.send(admit(away[0].clone(), 1)).await;
        let lost = s.metric("evenkeel_store_nodes_lost").await;
        if lost == 1.0 { Ok(()) } else { Err(lost.to_string()) }
    })
    .await;
    // A consumer whose node answers is counted in the store.
    for (consumer, lease) in here.iter().zip(10_000..) {
        let counters = |lease| {
            let key = format!("ek2:{{consumer={consumer}}}:counters");
            let node = &cluster.nodes[nodes[*consumer]];
            let value: Vec<u8> = redis::from_redis_value(node.command(&["GET", &key])).unwrap();
            assert!(!value.is_empty(), "{consumer}, {lease}");
            value
        };
        let before = counters(0);
        let admitted = s.admitted(admit((*consumer).clone(), lease)).await;
        assert_eq!(admitted.basis(), Basis::Shared, "{consumer}");
        assert_ne!(counters(lease), before, "{consumer}");
    }
}

/// Guards against one slowly moving slot that opened the circuit breaker for all pools.
#[tokio::test]
async fn a_moving_slot_affects_only_its_pools() {
    let cluster = Cluster::start();
    let s = Sidecar::start(&yaml(&cluster, "")).await;
    eventually(LIMIT, "all pools are shared", || async {
        let local = decided_locally(&s, 1).await;
        if local.is_empty() { Ok(()) } else { Err(format!("{local:?}")) }
    })
    .await;
    let from = cluster.node_of(&key_of(7));
    let to = (from + 1) % 3;
    let id = |node: usize| -> String {
        redis::from_redis_value(cluster.nodes[node].command(&["CLUSTER", "MYID"])).unwrap()
    };
    let slot: u16 =
        redis::from_redis_value(cluster.nodes[from].command(&["CLUSTER", "KEYSLOT", &key_of(7)])).unwrap();
    let slot = slot.to_string();
    cluster.nodes[to].command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(from)]);
    cluster.nodes[from].command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(to)]);
    let keys: Vec<String> =
        redis::from_redis_value(cluster.nodes[from].command(&["CLUSTER", "GETKEYSINSLOT", &slot, "10"]))
            .unwrap();
    assert_eq!(keys.len(), 5, "{keys:?}");
    let port = cluster.nodes[to].port.to_string();
    let migrate = |key: &str| cluster.nodes[from].command(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
    // Some keys have moved: Redis refuses every call on this pool, and executes all others.
    migrate(&keys[0]);
    for round in 0..10 {
        assert_eq!(decided_locally(&s, 100 + round).await, BTreeSet::from([7]), "round {round}");
    }
    assert_eq!(s.metric("evenkeel_store_losses_total").await, 0.0);
    // All keys have moved: Redis redirects each call.
    keys[1..].iter().for_each(|key| drop(migrate(key)));
    assert_eq!(decided_locally(&s, 200).await, BTreeSet::new());
    for node in [to, from] {
        cluster.nodes[node].command(&["CLUSTER", "SETSLOT", &slot, "NODE", &id(to)]);
    }
    assert_eq!(decided_locally(&s, 201).await, BTreeSet::new());
    assert_eq!(s.metric("evenkeel_store_losses_total").await, 0.0);
    // The table is the one that the store had before.
    let leases = [1, 200, 201].map(|lease| (lease, Some("a:1")));
    let answer = s.keep_alive("p7", "g", 201, &leases).await;
    assert_eq!((answer.restored, answer.dropped, answer.unapplied_pools), (0, 0, 0));
}
