//! Traffic through gateways: open streams and continuous short requests.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use evenkeel_loadtest::{
    lab::{Lab, Policy},
    mock::HOST,
};
use hyper::body::Incoming;
use tokio::task::JoinHandle;

use super::{
    chat::{self, HttpClient},
    wait::within,
};

/// Number of tokens of a stream that lasts longer than any test.
pub(crate) const ENDLESS: u32 = 1_000_000;

/// A response that is still streaming. Dropping it closes the stream.
pub(crate) struct Stream {
    pub(crate) host: String,
    _response: http::Response<Incoming>,
}

/// Opens a stream through a gateway's listener and waits for its headers.
pub(crate) async fn open(client: &HttpClient, url: &str, output: u32) -> Stream {
    let request = chat::request(url, 10, output).body(chat::streaming()).unwrap();
    let response = client.request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    Stream { host: response.headers()[HOST].to_str().unwrap().to_owned(), _response: response }
}

/// Opens `count` endless streams through one gateway.
pub(crate) async fn open_many(lab: &Lab, gateway: usize, count: usize) -> Vec<Stream> {
    let (client, url) = (chat::client(), lab.envoys()[gateway].url(Policy::EvenkeelLeastRequest));
    futures::future::join_all((0..count).map(|_| open(&client, &url, ENDLESS))).await
}

/// Closed-loop workers that send short requests until stopped.
pub(crate) struct ClosedLoop {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    workers: Vec<JoinHandle<Log>>,
}

/// What one worker saw.
#[derive(Default)]
struct Log {
    failures: Vec<String>,
    /// Duration of its longest request.
    longest: Duration,
}

impl ClosedLoop {
    /// Starts `workers` workers, distributed over these gateways.
    pub(crate) fn start(lab: &Lab, gateways: &[usize], workers: usize) -> Self {
        let url = |gateway: &usize| lab.envoys()[*gateway].url(Policy::EvenkeelLeastRequest);
        Self::over(&gateways.iter().map(url).collect::<Vec<_>>(), workers)
    }

    /// Starts `workers` workers, distributed over the gateways at these URLs.
    pub(crate) fn over(urls: &[String], workers: usize) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = chat::client();
        let worker = |i: usize| {
            let url = urls[i % urls.len()].clone();
            let (stop, served, client) = (Arc::clone(&stop), Arc::clone(&served), client.clone());
            tokio::spawn(async move {
                let mut log = Log::default();
                while !stop.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    match send(&client, &url).await {
                        Ok(()) => _ = served.fetch_add(1, Ordering::Relaxed),
                        Err(failure) => log.failures.push(failure),
                    }
                    log.longest = log.longest.max(start.elapsed());
                }
                log
            })
        };
        let workers = (0..workers).map(worker).collect();
        Self { stop, served, workers }
    }

    /// Waits until `more` further requests have been served.
    pub(crate) async fn wait_served(&self, more: u64) {
        let target = self.served.load(Ordering::Relaxed) + more;
        within(Duration::from_secs(20), "requests are served", || async {
            let served = self.served.load(Ordering::Relaxed);
            if served >= target { Ok(()) } else { Err(format!("{served} of {target}")) }
        })
        .await;
    }

    /// Stops the workers and asserts that every request was served. Returns the duration of the longest request.
    pub(crate) async fn stop(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let mut longest = Duration::ZERO;
        for worker in self.workers {
            let Log { failures, longest: of_worker } = worker.await.unwrap();
            longest = longest.max(of_worker);
            assert!(
                failures.is_empty(),
                "{} requests failed, such as {:?}",
                failures.len(),
                failures.first()
            );
        }
        longest
    }
}

async fn send(client: &HttpClient, url: &str) -> Result<(), String> {
    let request = chat::request(url, 10, 3).body(chat::streaming()).unwrap();
    let response = client.request(request).await.map_err(|e| e.to_string())?;
    if response.status() != 200 {
        return Err(response.status().to_string());
    }
    match chat::text(response).await {
        Ok(text) if text.contains("[DONE]") => Ok(()),
        Ok(text) => Err(format!("ended early: {text}")),
        Err(error) => Err(error.to_string()),
    }
}
