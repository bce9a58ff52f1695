//! Group commit. Admissions and settlements of one pool go to Redis in batches: while [`IN_FLIGHT_MAX`]
//! script calls are under way, further operations gather, and leave together when one returns. There is
//! no timer: an idle pool sends at once, a busy one pays for one script call a batch.

use std::{collections::HashMap, sync::Arc, time::Instant};

use parking_lot::Mutex;
use redis::Value;
use tokio::sync::oneshot;

use super::{
    Shared,
    keys::PoolKeys,
    script::{COMMIT, Call, Reply},
};
use crate::{
    domain::{HolderId, LeaseId, Roster},
    store::{Choice, Pool, StoreError},
};

/// Script calls of one pool under way at once. One would leave Redis idle for a round trip between batches.
const IN_FLIGHT_MAX: usize = 2;
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
    pool: Arc<Pool>,
    keys: PoolKeys,
    shared: Arc<Shared>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queue: std::collections::VecDeque<Op>,
    in_flight: usize,
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
        if state.in_flight < IN_FLIGHT_MAX {
            state.in_flight += 1;
            drop(state);
            let lane = Arc::clone(self);
            // Bounded by IN_FLIGHT_MAX a pool; ends by itself when the queue is empty.
            self.shared.tasks.spawn(async move { lane.drain().await });
        }
    }

    async fn drain(self: Arc<Self>) {
        loop {
            let batch = {
                let mut state = self.state.lock();
                let batch = next_batch(&mut state.queue);
                if batch.is_empty() {
                    state.in_flight -= 1;
                    return;
                }
                batch
            };
            self.commit(batch).await;
        }
    }

    async fn commit(&self, batch: Vec<Op>) {
        let metrics = &self.shared.metrics;
        metrics.store_batch.observe(batch.len() as f64);
        let call = self.call(&batch);
        let started = Instant::now();
        let reply = call.run(&self.shared.link).await;
        self.shared.observe("commit", started, reply.as_ref().err());
        match reply {
            Err(error) => batch.into_iter().for_each(|op| op.fail(&error)),
            Ok(reply) => self.deliver(batch, reply),
        }
    }

    fn call(&self, batch: &[Op]) -> Call {
        let mut holders: Vec<&HolderId> = Vec::new();
        let mut index_of: HashMap<&HolderId, usize> = HashMap::new();
        for op in batch {
            index_of.entry(&op.holder).or_insert_with(|| {
                holders.push(&op.holder);
                holders.len()
            });
        }
        let leases: Vec<String> = holders.iter().map(|holder| self.keys.leases(holder)).collect();
        let keys: Vec<&str> = [self.keys.in_flight.as_str(), self.keys.holders.as_str()]
            .into_iter()
            .chain(leases.iter().map(String::as_str))
            .collect();

        let mut call = Call::new(&COMMIT, &keys);
        call.number(self.shared.holder_ttl_ms).number(super::KEY_EXPIRY_MS).arg(if self.pool.higress_table {
            "0"
        } else {
            "1"
        });
        let endpoints = batch_roster(batch).map_or(&[][..], |roster| roster.endpoints());
        call.number(endpoints.len());
        for endpoint in endpoints {
            call.arg(&endpoint.address).number(endpoint.weight).number(endpoint.cap);
        }
        for holder in &holders {
            call.arg(holder.as_str());
        }
        for op in batch {
            call.number(index_of[&op.holder]).number(op.lease);
            match &op.kind {
                Kind::Admit { tie, .. } => call.number(*tie),
                Kind::Settle { .. } => call.arg("-"),
            };
        }
        call
    }

    fn deliver(&self, batch: Vec<Op>, mut reply: Reply) {
        match (reply.integer(), reply.count()) {
            (Ok(_now), Ok(clamped)) => self.shared.metrics.repairs.clamped.inc_by(clamped),
            (Err(error), _) | (_, Err(error)) => {
                return batch.into_iter().for_each(|op| op.fail(&error));
            }
        }
        for op in batch {
            let value = reply.value();
            // A caller that has gone away does not wait for its answer; its KeepAlive mends the rest.
            match op.kind {
                Kind::Admit { roster, answer, .. } => {
                    let _ = answer.send(value.and_then(|value| choice(&reply, &roster, value)));
                }
                Kind::Settle { answer } => {
                    let _ = answer.send(value.and_then(|value| match value {
                        Value::Int(n) => Ok(n == 1),
                        other => Err(reply.corrupt(&other)),
                    }));
                }
            }
        }
    }
}

/// Takes the operations of the next call: in order, as long as their admissions choose from one roster.
fn next_batch(queue: &mut std::collections::VecDeque<Op>) -> Vec<Op> {
    let mut first: Option<&Arc<Roster>> = None;
    let mut count = 0;
    for op in queue.iter().take(BATCH_MAX) {
        if let Kind::Admit { roster, .. } = &op.kind
            && !Arc::ptr_eq(first.get_or_insert(roster), roster)
        {
            break;
        }
        count += 1;
    }
    queue.drain(..count).collect()
}

fn batch_roster(batch: &[Op]) -> Option<&Arc<Roster>> {
    batch.iter().find_map(|op| match &op.kind {
        Kind::Admit { roster, .. } => Some(roster),
        Kind::Settle { .. } => None,
    })
}

fn choice(reply: &Reply, roster: &Roster, value: Value) -> Result<Choice, StoreError> {
    match value {
        Value::Int(0) => Ok(Choice::Full),
        Value::Int(n) => usize::try_from(n - 1)
            .ok()
            .and_then(|i| roster.endpoints().get(i))
            .map(|endpoint| Choice::Endpoint(Arc::clone(&endpoint.address)))
            .ok_or_else(|| reply.corrupt(&Value::Int(n))),
        Value::BulkString(ref address) => match std::str::from_utf8(address) {
            Ok(address) => Ok(Choice::Endpoint(address.into())),
            Err(_) => Err(reply.corrupt(&value)),
        },
        other => Err(reply.corrupt(&other)),
    }
}

impl Op {
    fn fail(self, error: &StoreError) {
        match self.kind {
            Kind::Admit { answer, .. } => drop(answer.send(Err(error.clone()))),
            Kind::Settle { answer } => drop(answer.send(Err(error.clone()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(roster: Option<&Arc<Roster>>) -> Op {
        let (holder, lease) = (HolderId::new("h").unwrap(), LeaseId::new(1).unwrap());
        let kind = match roster {
            Some(roster) => Kind::Admit { roster: Arc::clone(roster), tie: 0, answer: oneshot::channel().0 },
            None => Kind::Settle { answer: oneshot::channel().0 },
        };
        Op { holder, lease, kind }
    }

    #[test]
    fn a_batch_has_one_roster_and_a_bound() {
        let (a, b) = (Arc::new(Roster::default()), Arc::new(Roster::default()));
        let mut queue = [None, Some(&a), None, Some(&a), Some(&b), None].map(op).into_iter().collect();
        assert_eq!(next_batch(&mut queue).len(), 4);
        assert_eq!(next_batch(&mut queue).len(), 2);
        assert_eq!(next_batch(&mut queue).len(), 0);
        queue.extend((0..BATCH_MAX + 1).map(|_| op(None)));
        assert_eq!(next_batch(&mut queue).len(), BATCH_MAX);
    }
}
