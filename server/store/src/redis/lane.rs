//! Group commit: operations on the same keys go to Redis in batches. Operations that arrive while script calls are under
//! way wait, and leave together. There is no timer: an idle lane sends at once, a busy one pays for one script call a
//! batch.

use std::{collections::VecDeque, future::Future, sync::Arc};

use evenkeel_domain::StoreError;
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

/// Script calls of one lane under way at once. One would leave Redis idle for a round trip between batches.
const CALLS_MAX: usize = 2;
/// With no more operations than this under way, the lane counts as idle: a further call leaves at once. Otherwise it
/// leaves beside another only when it is full: a call itself costs Redis as much as some 40 operations do.
const IDLE_MAX: usize = 8;
/// Most operations in one script call: bounds how long Redis is busy with it.
pub(super) const BATCH_MAX: usize = 256;
/// Most operations waiting in one lane; beyond, callers get an error at once.
const QUEUE_MAX: usize = 16_384;

/// What a lane's operations are, and what becomes of a batch of them.
pub(super) trait Work: Send + Sync + 'static {
    /// One operation, with where its answer goes.
    type Op: Send + 'static;

    /// Returns how many operations from the front of the queue make up the next batch: at least one where there is any,
    /// and at most [`BATCH_MAX`].
    fn next_batch(queue: &VecDeque<Self::Op>) -> usize;

    /// Sends a batch and hands out its answers.
    fn commit(&self, ops: Vec<Self::Op>) -> impl Future<Output = ()> + Send;

    /// Answers an operation with an error.
    fn fail(op: Self::Op, error: &StoreError);
}

/// Operations on their way to Redis.
pub(super) struct Lane<W: Work> {
    pub(super) work: W,
    tasks: TaskTracker,
    state: Mutex<State<W::Op>>,
}

/// What waits and what is under way.
struct State<O> {
    queue: VecDeque<O>,
    /// Script calls under way, and the operations in them.
    calls: usize,
    operations: usize,
}

impl<O> State<O> {
    /// Whether the waiting operations may leave now. Always so when nothing is under way: none is left behind.
    fn may_leave(&self) -> bool {
        self.calls == 0
            || (self.calls < CALLS_MAX && (self.operations <= IDLE_MAX || self.queue.len() >= BATCH_MAX))
    }
}

impl<W: Work> Lane<W> {
    pub(super) fn new(work: W, tasks: TaskTracker) -> Arc<Self> {
        let state = State { queue: VecDeque::new(), calls: 0, operations: 0 };
        Arc::new(Self { work, tasks, state: Mutex::new(state) })
    }

    /// Queues an operation; its answer comes through its own channel.
    pub(super) fn submit(self: &Arc<Self>, op: W::Op) {
        let mut state = self.state.lock();
        if state.queue.len() >= QUEUE_MAX {
            drop(state);
            W::fail(op, &StoreError::Overloaded(QUEUE_MAX));
            return;
        }
        state.queue.push_back(op);
        if state.may_leave() {
            state.calls += 1;
            drop(state);
            let lane = Arc::clone(self);
            // At most CALLS_MAX in a lane; each ends when nothing may leave.
            self.tasks.spawn(async move { lane.flush().await });
        }
    }

    /// Sends batches until nothing may leave. The caller has counted the first call.
    async fn flush(&self) {
        loop {
            let batch: Vec<W::Op> = {
                let mut state = self.state.lock();
                let count = W::next_batch(&state.queue);
                state.operations += count;
                state.queue.drain(..count).collect()
            };
            let sent = batch.len();
            if sent > 0 {
                self.work.commit(batch).await;
            }
            let mut state = self.state.lock();
            state.operations -= sent;
            state.calls -= 1;
            if state.queue.is_empty() || !state.may_leave() {
                return;
            }
            state.calls += 1;
        }
    }
}
