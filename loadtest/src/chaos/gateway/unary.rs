//! A gateway that calls its sidecar with unary calls, and repeats each call until it succeeds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use evenkeel_proto::{HolderClient, HolderSecret, v1::SettleRequest};
use tokio::task::JoinSet;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use super::{
    super::record::Served,
    Mode, Worker,
    traffic::{Plan, Traffic},
};

/// Timeout of each call: longer than a sidecar waits for the store. A repeated call goes to the next sidecar.
const CALL_WITHIN: Duration = Duration::from_millis(500);
/// Delay before a failed call is repeated.
const RETRY_AFTER: Duration = Duration::from_millis(50);
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct Unary {
    worker: Worker,
    clients: Arc<[HolderClient<Channel>]>,
    /// Index of the sidecar that answered last.
    sidecar: Arc<AtomicUsize>,
}

pub(super) async fn run(worker: Worker) {
    let secret = HolderSecret::new(rand::random());
    let clients = worker.sidecars.iter().filter_map(|url| {
        let endpoint = Endpoint::from_shared(url.clone()).ok()?.connect_timeout(CONNECT_WITHIN);
        Some(HolderClient::new(secret.clone().on(endpoint.connect_lazy())))
    });
    let clients = clients.collect();
    let mut traffic = Traffic::new(worker.seed);
    let unary = Unary { sidecar: Arc::new(AtomicUsize::new(worker.home)), clients, worker };
    unary.worker.state.lock().connected = Some(unary.worker.home);
    let mut modes = unary.worker.mode.clone();
    let keep_alive = tokio::spawn(unary.clone().keep_alive());
    let mut requests = JoinSet::new();
    loop {
        if modes.wait_for(|mode| *mode != Mode::Quiet).await.map_or(true, |mode| *mode == Mode::Leave) {
            break;
        }
        requests.spawn(unary.clone().request(traffic.plan()));
        while requests.try_join_next().is_some() {}
        tokio::select! {
            () = tokio::time::sleep(traffic.pause()) => {}
            _ = modes.changed() => {}
        }
    }
    while requests.join_next().await.is_some() {}
    keep_alive.abort();
    let _ = keep_alive.await;
    unary.list().await;
    unary.worker.state.lock().connected = None;
}

impl Unary {
    fn client(&self) -> (usize, HolderClient<Channel>) {
        let sidecar = self.sidecar.load(Ordering::Relaxed);
        (sidecar, self.clients[sidecar].clone())
    }

    /// Turns to the next sidecar, unless another call has done so.
    fn turn_from(&self, sidecar: usize) {
        let next = (sidecar + 1) % self.clients.len();
        let turned = self.sidecar.compare_exchange(sidecar, next, Ordering::Relaxed, Ordering::Relaxed);
        if turned.is_ok() {
            self.worker.state.lock().connected = Some(next);
        }
    }

    fn failed(&self, what: &str, sidecar: usize, status: Option<Status>) {
        let forbidden = [Code::PermissionDenied, Code::InvalidArgument, Code::Internal];
        if let Some(status) = status.filter(|status| forbidden.contains(&status.code())) {
            self.worker.record.problem(format!("{what} of {}: {status}", self.worker.holder));
        }
        self.turn_from(sidecar);
    }

    async fn request(self, plan: Plan) {
        let lease = self.worker.state.lock().ask(plan.consumer, None);
        if !self.admit(lease).await {
            return;
        }
        let mut modes = self.worker.mode.clone();
        tokio::select! {
            () = tokio::time::sleep(plan.runs) => {}
            _ = modes.wait_for(|mode| *mode == Mode::Leave) => {}
        }
        let _ = modes.wait_for(|mode| *mode != Mode::Quiet).await;
        let Some((number, settlement)) = self.worker.state.lock().end(lease, plan.output) else { return };
        self.settle(number, settlement).await;
    }

    /// Asks until a sidecar answers. Returns whether the request is in flight.
    async fn admit(&self, lease: u64) -> bool {
        loop {
            let asked_at = Instant::now();
            let request = {
                let mut state = self.worker.state.lock();
                if let Some(pending) = state.pending.get_mut(&lease) {
                    pending.repeated_at = asked_at;
                }
                state.admit_request(lease, &self.worker.holder)
            };
            let Some(request) = request else { return false };
            let (sidecar, mut client) = self.client();
            match tokio::time::timeout(CALL_WITHIN, client.admit(request)).await {
                Ok(Ok(response)) => {
                    let record = &self.worker.record;
                    return self.worker.state.lock().answered(lease, response.into_inner(), record);
                }
                Ok(Err(status)) => self.failed("Admit", sidecar, Some(status)),
                Err(_) => self.failed("Admit", sidecar, None),
            }
            self.worker.record.admission(asked_at, Served::Unanswered);
            if let Some(pending) = self.worker.state.lock().pending.get(&lease) {
                self.worker.record.repeated(pending.consumer);
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    /// Reports the end until a sidecar answers.
    async fn settle(&self, number: u64, settlement: SettleRequest) {
        let settlement = SettleRequest { holder: self.worker.holder.clone(), ..settlement };
        loop {
            let (sidecar, mut client) = self.client();
            self.worker.state.lock().sent(number, sidecar);
            match tokio::time::timeout(CALL_WITHIN, client.settle(settlement.clone())).await {
                Ok(Ok(_)) => {
                    let record = &self.worker.record;
                    return self.worker.state.lock().acknowledged(number, sidecar, record);
                }
                Ok(Err(status)) => self.failed("Settle", sidecar, Some(status)),
                Err(_) => self.failed("Settle", sidecar, None),
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    async fn keep_alive(self) {
        loop {
            let interval = self.list().await.unwrap_or(RETRY_AFTER);
            tokio::time::sleep(interval).await;
        }
    }

    /// Sends the list. Returns the time until the next one, or `None` if no sidecar has applied it.
    async fn list(&self) -> Option<Duration> {
        let list = self.worker.state.lock().list(&self.worker.holder);
        let (sidecar, mut client) = self.client();
        match tokio::time::timeout(CALL_WITHIN, client.keep_alive(list)).await {
            Ok(Ok(response)) => {
                return Some(Duration::from_millis(response.into_inner().interval_ms.into()));
            }
            Ok(Err(status)) => self.failed("KeepAlive", sidecar, Some(status)),
            Err(_) => self.failed("KeepAlive", sidecar, None),
        }
        None
    }
}
