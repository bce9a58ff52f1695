//! Takes pictures of the page for the documentation: `make pictures`.

use std::{path::Path, sync::Arc, time::Duration};

use evenkeel_loadtest::lab::{Lab, paths};
use evenkeel_proto::v1 as pb;

use super::{
    driver::Driver,
    scene::{Request, Worker, endpoints},
};

/// How long the traffic runs before the pictures are taken.
const BEFORE: Duration = Duration::from_secs(300);

const CONFIG: &str = "
admin: {tokens: [{name: tests, token: an-administrators-token}]}
models: [{model: \"*\", output_tokens: 300, bytes_per_token: 4}]
limits:
  - {name: consumer-tpm, counts: tokens, amount: 2200k, per: 1m, key: [consumer]}
  - {name: at-once, counts: requests, amount: 120, algorithm: concurrency, key: [consumer]}
quotas:
  - {name: credit, counts: cost, kind: prepaid, default: 40}
  - {name: daily, counts: tokens, kind: budget, per: day, default: 20M}
prices: [{model: \"llama*\", input: 0.9, output: 2.4}, {model: \"*\", input: 0.2, output: 0.6}]
";

/// Pools: model, network of the endpoints, number of endpoints, cap, mean requests per second, mean seconds per request.
const POOLS: [(&str, &str, usize, u32, f64, f64); 4] = [
    ("llama-3.3-70b", "10.20", 12, 32, 34.0, 7.5),
    ("qwen3-32b", "10.21", 8, 24, 22.0, 8.0),
    ("gpt-oss-120b", "10.22", 6, 16, 7.0, 9.0),
    ("embeddings", "10.23", 24, 48, 60.0, 2.5),
];
const CONSUMERS: [(&str, f64); 7] = [
    ("batch-eval", 0.34),
    ("search", 0.24),
    ("assistant", 0.17),
    ("research", 0.11),
    ("support-desk", 0.07),
    ("alice", 0.05),
    ("ci", 0.02),
];

/// A pseudo-random sequence that is the same on every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn consumer(&mut self) -> &'static str {
        let mut at = self.roll();
        for (name, part) in CONSUMERS {
            at -= part;
            if at < 0.0 {
                return name;
            }
        }
        CONSUMERS[0].0
    }
}

/// Sends one pool's traffic through all workers until the task is aborted.
async fn traffic(workers: Vec<Arc<Worker>>, pool: usize) {
    let (model, network, count, cap, rate, lasts) = POOLS[pool];
    let candidates = endpoints(network, count, cap);
    let (mut dice, start) = (Dice(17 + pool as u64), std::time::Instant::now());
    for i in 0usize.. {
        let wave = 1.0 + 0.3 * (start.elapsed().as_secs_f64() / 45.0 + pool as f64).sin();
        tokio::time::sleep(Duration::from_secs_f64(-(1.0 - dice.roll()).ln() / (rate * wave))).await;
        let consumer = dice.consumer();
        let request = Request {
            cluster: model.into(),
            candidates: candidates.clone(),
            consumer: consumer.into(),
            model: model.into(),
            session: format!("{consumer}-{}", (dice.roll() * 12.0) as u32),
            tokens: pb::Tokens {
                input: 300 + (dice.roll() * 900.0) as u64,
                output: 60 + (dice.roll() * 500.0) as u64,
                cached_input: (dice.roll() * 200.0) as u64,
                reasoning: (dice.roll() * 40.0) as u64,
                ..pb::Tokens::default()
            },
            lasts: Duration::from_secs_f64(lasts * (0.3 + 1.4 * dice.roll())),
        };
        let worker = Arc::clone(&workers[i % workers.len()]);
        tokio::spawn(async move { worker.send(request).await });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes and checks nothing; run `make pictures`"]
async fn pictures_of_the_page() {
    let builder = Lab::builder()
        .hosts(4)
        .envoys(0)
        .sidecars(3)
        .redis()
        .keep_alive_interval(Duration::from_secs(2))
        .store_timeout(Duration::from_secs(2))
        .pool_yaml("cap: 8")
        .sidecar_yaml(CONFIG);
    let lab = builder.start().await.unwrap();
    let mut workers = Vec::new();
    for (i, sidecar) in lab.sidecars().iter().enumerate() {
        for thread in 0..2 {
            let holder = format!("gateway-{i}-{thread}");
            workers.push(Arc::new(Worker::connect(&sidecar.grpc_url().unwrap(), &holder).await));
        }
    }
    let tasks: Vec<_> = (0..POOLS.len()).map(|pool| tokio::spawn(traffic(workers.clone(), pool))).collect();
    tokio::time::sleep(BEFORE).await;
    let images = paths::workspace().join("docs/images");
    std::fs::create_dir_all(&images).unwrap();
    let mut driver = Driver::new(lab);
    let to = [("EVENKEEL_PAGE_PICTURES", images.to_str().unwrap())];
    driver.run(Path::new("run.mjs"), &["pictures"], &to).await;
    tasks.into_iter().for_each(|task| task.abort());
}
