//! Test of the page with 500 endpoints and 10,000 consumers.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use evenkeel_loadtest::lab::{Lab, paths};
use evenkeel_proto::v1 as pb;

use super::{
    LIMITS,
    driver::Driver,
    scene::{Request, Worker, endpoints},
};
use crate::support::lab;

const ENDPOINTS: usize = 500;
const CONSUMERS: u64 = 10_000;
/// Number of requests in flight at any time.
const WORKERS: usize = 48;

fn request(i: u64, candidates: Vec<pb::Candidate>) -> Request {
    Request {
        cluster: "large".into(),
        candidates,
        consumer: format!("consumer-{i:05}"),
        model: format!("model-{}", i % 7),
        session: String::new(),
        tokens: pb::Tokens { input: 100 + i, output: 50, ..pb::Tokens::default() },
        lasts: Duration::from_millis(20),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_is_fast_with_many_endpoints_and_consumers() {
    for found in [paths::browser(), paths::node(), paths::page_tools()] {
        if lab::found(found).is_none() {
            return;
        }
    }
    let builder = Lab::builder()
        .hosts(1)
        .envoys(0)
        .sidecars(1)
        .redis()
        .store_timeout(Duration::from_secs(5))
        .sidecar_yaml(LIMITS);
    let Some(lab) = lab::start(builder).await else { return };
    let worker = Arc::new(Worker::connect(&lab.sidecars()[0].grpc_url().unwrap(), "gateway-1").await);
    let candidates = endpoints("10.40", ENDPOINTS, 16);

    // The tasks send one request per consumer first, and then further requests, so that the page changes during the
    // checks.
    let (next, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let task = |_| {
        let (worker, next, stop) = (Arc::clone(&worker), Arc::clone(&next), Arc::clone(&stop));
        let candidates = candidates.clone();
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let mut request = request(i % CONSUMERS, candidates.clone());
                if i >= CONSUMERS {
                    request.lasts = Duration::from_millis(1500);
                }
                assert!(worker.send(request).await.unwrap(), "request {i} was refused");
            }
        })
    };
    let tasks: Vec<_> = (0..WORKERS).map(task).collect();
    let all = async {
        while next.load(Ordering::Relaxed) < CONSUMERS + WORKERS as u64 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(240), all).await.expect("the consumers took too long");
    let mut driver = Driver::new(lab);
    driver.run(Path::new("run.mjs"), &["many"], &[]).await;
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
}
