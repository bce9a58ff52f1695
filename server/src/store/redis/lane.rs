//! Group commit. Admissions and settlements of one pool go to Redis in batches: what arrives while script calls
//! are under way gathers, and leaves together. There is no timer: an idle pool sends at once, a busy one pays
//! for one script call a batch.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{Shared, batch::Batch, keys::PoolKeys, link::Way};
use crate::{
    domain::{HolderId, LeaseId, Roster},
    store::{Choice, Pool, StoreError},
};

/// Script calls of one pool under way at once. One would leave Redis idle for a round trip between batches.
const CALLS_MAX: usize = 2;
/// With no more operations than this under way, the pool counts as idle: a further call leaves at once. Otherwise it
/// leaves beside another only when it is full: a call costs Redis as much by itself as some 40 operations do.
const IDLE_MAX: usize = 8;
/// Most operations in one script call: bounds how long Redis is busy with it.
const BATCH_MAX: usize = 256;
/// Most operations waiting in one pool; beyond, callers are told at once.
const QUEUE_MAX: usize = 16_384;

/// One operation.
pub(crate) struct Op {
    pub(crate) holder: HolderId,
    pub(crate) lease: LeaseId,
    pub(crate) kind: Kind,
}

/// What an operation does, and where its answer goes.
pub(crate) enum Kind {
    Admit { roster: Arc<Roster>, tie: u32, answer: oneshot::Sender<Result<Choice, StoreError>> },
    Settle { answer: oneshot::Sender<Result<bool, StoreError>> },
}

/// The operations of one pool on their way to Redis.
pub(crate) struct Lane {
    pub(super) pool: Arc<Pool>,
    keys: PoolKeys,
    pub(super) shared: Arc<Shared>,
    state: Mutex<State>,
}

/// What waits and what is under way.
#[derive(Default)]
struct State {
    queue: VecDeque<Op>,
    /// Script calls under way, and the operations in them.
    calls: usize,
    operations: usize,
}

impl State {
    /// Whether the waiting operations may leave now. Always so when nothing is under way: none is left behind.
    fn may_leave(&self) -> bool {
        self.calls == 0
            || (self.calls < CALLS_MAX && (self.operations <= IDLE_MAX || self.queue.len() >= BATCH_MAX))
    }
}

impl Lane {
    pub(crate) fn new(pool: Arc<Pool>, keys: PoolKeys, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self { pool, keys, shared, state: Mutex::default() })
    }

    pub(crate) fn keys(&self) -> &PoolKeys {
        &self.keys
    }

    /// Queues an operation; its answer comes through its own channel.
    pub(crate) fn submit(self: &Arc<Self>, op: Op) {
        let mut state = self.state.lock();
        if state.queue.len() >= QUEUE_MAX {
            drop(state);
            op.fail(&StoreError::Overloaded(QUEUE_MAX));
            return;
        }
        state.queue.push_back(op);
        if state.may_leave() {
            state.calls += 1;
            drop(state);
            let lane = Arc::clone(self);
            // Bounded by CALLS_MAX a pool; ends by itself when nothing may leave.
            self.shared.tasks.spawn(async move { lane.drain().await });
        }
    }

    /// Sends batches until nothing may leave. The call was counted by whoever started this.
    async fn drain(&self) {
        loop {
            let batch = {
                let mut state = self.state.lock();
                let batch = next_batch(&mut state.queue);
                state.operations += batch.len();
                batch
            };
            let sent = batch.len();
            if sent > 0 {
                self.commit(batch).await;
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

    async fn commit(&self, ops: Vec<Op>) {
        self.shared.metrics.store_batch.observe(ops.len() as f64);
        let batch = Batch::new(ops);
        let call = batch.call(self);
        match self.shared.run(&call, Way::Request).await {
            Err(error) => batch.fail(&error),
            Ok(reply) => batch.deliver(reply, &self.shared.metrics),
        }
    }
}

/// Takes the operations of the next call: in order, as long as their admissions choose from one roster and
/// no lease is named twice.
fn next_batch(queue: &mut VecDeque<Op>) -> Vec<Op> {
    let mut first: Option<&Arc<Roster>> = None;
    let mut named: HashSet<(&HolderId, LeaseId)> = HashSet::with_capacity(queue.len().min(BATCH_MAX));
    let mut count = 0;
    for op in queue.iter().take(BATCH_MAX) {
        if let Kind::Admit { roster, .. } = &op.kind
            && !Arc::ptr_eq(first.get_or_insert(roster), roster)
        {
            break;
        }
        if !named.insert((&op.holder, op.lease)) {
            break;
        }
        count += 1;
    }
    queue.drain(..count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(lease: u64, roster: Option<&Arc<Roster>>) -> Op {
        let (holder, lease) = (HolderId::new("h").unwrap(), LeaseId::new(lease).unwrap());
        let kind = match roster {
            Some(roster) => Kind::Admit { roster: Arc::clone(roster), tie: 0, answer: oneshot::channel().0 },
            None => Kind::Settle { answer: oneshot::channel().0 },
        };
        Op { holder, lease, kind }
    }

    #[test]
    fn a_batch_has_one_roster_no_lease_twice_and_a_bound() {
        let (a, b) = (Arc::new(Roster::default()), Arc::new(Roster::default()));
        let rosters = [None, Some(&a), None, Some(&a), Some(&b), None];
        let mut queue: VecDeque<Op> = (1..).zip(rosters).map(|(lease, roster)| op(lease, roster)).collect();
        assert_eq!(next_batch(&mut queue).len(), 4);
        assert_eq!(next_batch(&mut queue).len(), 2);
        assert_eq!(next_batch(&mut queue).len(), 0);
        queue.extend([op(1, Some(&a)), op(2, None), op(1, None)]);
        assert_eq!(next_batch(&mut queue).len(), 2);
        assert_eq!(next_batch(&mut queue).len(), 1);
        queue.extend((1..=BATCH_MAX as u64 + 1).map(|lease| op(lease, None)));
        assert_eq!(next_batch(&mut queue).len(), BATCH_MAX);
    }
}
