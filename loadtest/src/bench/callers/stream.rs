//! Callers that share one stream, as the requests of one gateway worker do. A settlement leaves with the next Admit, and
//! counts as a call when it is acknowledged. In a pool that chooses by work, prompts differ in size, the first token leaves
//! with the next Admit, and the settlement with one after it.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    rc::Rc,
    time::{Duration, Instant},
};

use evenkeel_proto::{
    HolderClient,
    v1::{
        Admitted, FirstToken, FromWorker, HeldPool, Hello, KeepAliveRequest, SettleRequest, ToWorker,
        admit_answer, admit_response::Answer,
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Streaming, transport::Channel};

use super::{
    super::recorder::Recorder,
    gateway::{admit_request, pool, settle_request},
};
use crate::lab::LabError;

const LIST_INTERVAL: Duration = Duration::from_millis(500);
/// Maximum time that a settlement waits for the next Admit.
const SETTLE_MAX: Duration = Duration::from_millis(10);
/// Number of sizes of prompts, and the bytes between two of them: prompts of 100 to 24,100 tokens.
const PROMPTS: u64 = 97;
const PROMPT_STEP: u64 = 1000;

/// One stream, and what its callers wait for. The closed loop bounds all of it.
struct Worker {
    to: mpsc::UnboundedSender<FromWorker>,
    recorder: Rc<Recorder>,
    last_lease: Cell<u64>,
    waiting: RefCell<HashMap<u64, oneshot::Sender<Option<Admitted>>>>,
    by_work: bool,
    /// First tokens that leave with the next Admit.
    first_tokens: RefCell<Vec<FirstToken>>,
    /// Settlements of the requests in `first_tokens`.
    begun: RefCell<Vec<SettleRequest>>,
    /// Settlements that leave with the next Admit.
    settlements: RefCell<Vec<SettleRequest>>,
    last_settlement: Cell<u64>,
    /// Start of each settlement that is not acknowledged; the first one has the number `acknowledged` plus 1.
    unacknowledged: RefCell<VecDeque<Instant>>,
    acknowledged: Cell<u64>,
}

/// Opens a stream, and spawns one caller per recorder.
pub(crate) async fn spawn(
    mut client: HolderClient<Channel>,
    by_work: bool,
    recorders: impl Iterator<Item = Rc<Recorder>>,
) -> Result<Vec<JoinHandle<()>>, LabError> {
    let recorders: Vec<_> = recorders.collect();
    let Some(recorder) = recorders.first().map(Rc::clone) else { return Ok(Vec::new()) };
    let failed = |status: tonic::Status| LabError::Response { what: format!("opening a stream: {status}") };
    let (to, messages) = mpsc::unbounded_channel();
    let holder = format!("bench-stream-{}-{}", std::process::id(), rand::random::<u32>());
    let hello = Some(Hello { holder, ..Hello::default() });
    let _ = to.send(FromWorker { hello, ..FromWorker::default() });
    let from = client.connect(UnboundedReceiverStream::new(messages)).await.map_err(failed)?.into_inner();
    let worker = Rc::new(Worker {
        to,
        recorder,
        last_lease: Cell::new(0),
        waiting: RefCell::default(),
        by_work,
        first_tokens: RefCell::default(),
        begun: RefCell::default(),
        settlements: RefCell::default(),
        last_settlement: Cell::new(0),
        unacknowledged: RefCell::default(),
        acknowledged: Cell::new(0),
    });
    // The reader ends with the stream, which ends when the last caller drops the worker.
    tokio::task::spawn_local(read(from, Rc::downgrade(&worker)));
    let mut tasks = vec![tokio::task::spawn_local(beside(Rc::clone(&worker)))];
    for _ in recorders {
        tasks.push(tokio::task::spawn_local(call(Rc::clone(&worker))));
    }
    Ok(tasks)
}

impl Worker {
    /// Sends a message, with the settlements that wait.
    fn send(&self, message: FromWorker) {
        let settlements = self.settlements.replace(self.begun.take());
        let first_tokens = self.first_tokens.take();
        for _ in &settlements {
            self.unacknowledged.borrow_mut().push_back(Instant::now());
        }
        let first_settlement = self.last_settlement.get() + 1;
        self.last_settlement.set(self.last_settlement.get() + settlements.len() as u64);
        // A stream that has ended answers nothing, which the callers count as an error.
        let _ = self.to.send(FromWorker { settlements, first_settlement, first_tokens, ..message });
    }

    fn receive(&self, message: ToWorker) {
        if message.ping > 0 {
            self.send(FromWorker { pong: message.ping, ..FromWorker::default() });
        }
        let mut waiting = self.waiting.borrow_mut();
        for answer in message.answers {
            let admitted = match answer.answer {
                Some(admit_answer::Answer::Response(response)) => match response.answer {
                    Some(Answer::Admitted(admitted)) => Some(admitted),
                    _ => None,
                },
                _ => None,
            };
            if let Some(waiting) = waiting.remove(&answer.lease) {
                let _ = waiting.send(admitted);
            }
        }
        let mut unacknowledged = self.unacknowledged.borrow_mut();
        while self.acknowledged.get() < message.settled_through {
            self.acknowledged.set(self.acknowledged.get() + 1);
            if let Some(start) = unacknowledged.pop_front() {
                self.recorder.record(start, false, true);
            }
        }
    }
}

async fn read(mut from: Streaming<ToWorker>, worker: std::rc::Weak<Worker>) {
    while let Ok(Some(message)) = from.message().await {
        let Some(worker) = worker.upgrade() else { return };
        worker.receive(message);
    }
    if let Some(worker) = worker.upgrade() {
        worker.waiting.borrow_mut().clear();
    }
}

async fn call(worker: Rc<Worker>) {
    let holder = "";
    while !worker.recorder.is_stopped() {
        let lease = worker.last_lease.get() + 1;
        worker.last_lease.set(lease);
        let (answer, answered) = oneshot::channel();
        worker.waiting.borrow_mut().insert(lease, answer);
        let start = Instant::now();
        let mut admit = admit_request(holder, lease);
        if worker.by_work {
            admit.prompt_bytes = 400 + lease % PROMPTS * PROMPT_STEP;
        }
        worker.send(FromWorker { admit: Some(admit), ..FromWorker::default() });
        let Ok(admitted) = answered.await else {
            worker.recorder.record(start, true, false);
            return;
        };
        worker.recorder.record(start, true, admitted.as_ref().is_some_and(|a| !a.endpoint.is_empty()));
        let ticket = admitted.map(|admitted| admitted.ticket).unwrap_or_default();
        let settle = SettleRequest { ticket, ..settle_request(holder, lease) };
        if worker.by_work {
            let first_token = FirstToken { lease, after_ms: 120, pool: Some(pool()) };
            worker.first_tokens.borrow_mut().push(first_token);
            worker.begun.borrow_mut().push(settle);
        } else {
            worker.settlements.borrow_mut().push(settle);
        }
    }
}

/// Sends lists, and settlements that have waited too long.
async fn beside(worker: Rc<Worker>) {
    let mut listed = Instant::now();
    while !worker.recorder.is_stopped() {
        tokio::time::sleep(SETTLE_MAX).await;
        if listed.elapsed() >= LIST_INTERVAL {
            listed = Instant::now();
            // An empty list with `issued_through` 0 changes no lease; it only keeps the holder alive.
            let held = HeldPool { pool: Some(pool()), ..HeldPool::default() };
            let leases = KeepAliveRequest { pools: vec![held], ..KeepAliveRequest::default() };
            worker.send(FromWorker { leases: Some(leases), ..FromWorker::default() });
        } else if !worker.settlements.borrow().is_empty() || !worker.begun.borrow().is_empty() {
            worker.send(FromWorker::default());
        }
    }
}
