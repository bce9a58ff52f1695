//! Group commit: a lane sends operations on the same keys to Redis in batches. Operations that arrive during a script
//! call wait, and the lane sends them together in the next call. No timer is involved: an idle lane sends an operation
//! at once, and a busy lane makes one script call per batch.

use std::{collections::VecDeque, future::Future, sync::Arc};

use evenkeel_domain::StoreError;
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

/// Maximum number of concurrent script calls of one lane. With only one, Redis would be idle for a round trip between
/// batches.
const CALLS_MAX: usize = 2;
/// If at most this many operations are in progress, the lane counts as idle and makes another call immediately.
/// Otherwise it makes another call only for a full batch, because the call itself costs Redis as much as about 40
/// operations.
const IDLE_MAX: usize = 8;
/// Maximum number of operations in one script call. It bounds how long the call blocks Redis.
pub(super) const BATCH_MAX: usize = 256;
/// Maximum number of operations that wait in one lane. If the lane is full, callers get an error immediately.
const QUEUE_MAX: usize = 16_384;

/// The kind of operations that a lane takes, and how the lane sends a batch of them.
pub(super) trait Work: Send + Sync + 'static {
    /// One operation, with the channel of its answer.
    type Op: Send + 'static;

    /// Returns the number of operations at the front of the queue that form the next batch: at least one unless the
    /// queue is empty, and at most [`BATCH_MAX`].
    fn next_batch(queue: &VecDeque<Self::Op>) -> usize;

    /// Sends a batch and distributes its answers.
    fn commit(&self, ops: Vec<Self::Op>) -> impl Future<Output = ()> + Send;

    /// Fails an operation with an error.
    fn fail(op: Self::Op, error: &StoreError);
}

/// Operations on their way to Redis.
pub(super) struct Lane<W: Work> {
    pub(super) work: W,
    tasks: TaskTracker,
    state: Mutex<State<W::Op>>,
}

/// The waiting operations and the calls in progress.
struct State<O> {
    queue: VecDeque<O>,
    /// Script calls in progress, and the number of operations in those calls.
    calls: usize,
    operations: usize,
}

impl<O> State<O> {
    /// Whether the waiting operations may be sent now. With no call in progress they always may, so that no operation
    /// waits forever.
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

    /// Queues an operation. The answer comes through the operation's channel.
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
            // At most CALLS_MAX of these tasks run for one lane. Each task ends when it may send nothing more.
            self.tasks.spawn(async move { lane.flush().await });
        }
    }

    /// Sends batches until nothing more may be sent. The caller has already counted the first call.
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
