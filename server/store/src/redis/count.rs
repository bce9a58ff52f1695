//! Sends operations on counters in batches to the script `count` or `windows`, and returns their answers.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use evenkeel_domain::{
    StoreError,
    limit::{CounterRule, Meter},
};
use evenkeel_telemetry::traces::StoreSpan;

use super::{
    call::Numbers,
    counter_operation::{How, Op, Place},
    encode::{self, Sent},
    lane::{BATCH_MAX, Work},
    link::Way,
    windows::Windows,
};
use crate::counters::{CounterState, RecordRef, SettleResult, Verdict};

/// Maximum number of counters in one script call. It bounds how long the call blocks Redis.
const COUNTERS_MAX: usize = 1024;

/// The work of a lane of counters: sends operations to the script `count` or `windows`. A lane ([`super::lane`])
/// batches operations on the same keys.
pub(super) struct CountWork {
    pub(super) place: Place,
    pub(super) windows: Windows,
}

impl Work for CountWork {
    type Op = Op;

    /// Takes operations in order, until one names a reservation for the second time.
    fn next_batch(queue: &VecDeque<Op>) -> usize {
        let mut named = HashSet::with_capacity(queue.len().min(BATCH_MAX));
        let mut counters = 0;
        let fits = |op: &&Op| {
            counters += op.counters();
            counters <= COUNTERS_MAX || counters == op.counters()
        };
        let ids = queue.iter().take(BATCH_MAX).take_while(fits).map(|op| op.recorded().map(|(id, _)| id));
        ids.take_while(|id| id.is_none_or(|id| named.insert(id))).count()
    }

    async fn commit(&self, mut ops: Vec<Op>) {
        let operations = ops.len();
        self.place.shared.metrics.store_batch.observe(operations as f64);
        ops.iter_mut().for_each(|op| op.sent(operations));
        let Err((ops, error)) = self.send(ops).await else { return };
        // For example, one key may have another type. It must not fail the other operations of the batch.
        if ops.len() > 1 && matches!(error, StoreError::Script { .. }) {
            for op in ops {
                if let Err((op, error)) = self.send(vec![op]).await {
                    op.into_iter().for_each(|op| op.fail(&error));
                }
            }
        } else {
            ops.into_iter().for_each(|op| op.fail(&error));
        }
    }

    fn fail(op: Op, error: &StoreError) {
        op.fail(error);
    }
}

impl CountWork {
    /// Sends a batch, and passes each answer to its caller. If the call fails, returns the batch.
    async fn send(&self, ops: Vec<Op>) -> Result<(), (Vec<Op>, StoreError)> {
        if let Some(call) = self.windows.call(&self.place, &ops) {
            match self.place.shared.run_packed(&call, Way::Request).await {
                Ok(reply) if reply.is_empty() => self.windows.pause(),
                Ok(reply) => {
                    self.deliver(ops, reply, &Sent::default());
                    return Ok(());
                }
                Err(error) => return Err((ops, error)),
            }
        }
        let (call, sent) = encode::call(&self.place, &ops);
        match self.place.shared.run_packed(&call, Way::Request).await {
            Ok(reply) => {
                self.deliver(ops, reply, &sent);
                Ok(())
            }
            Err(error) => Err((ops, error)),
        }
    }

    fn deliver(&self, ops: Vec<Op>, mut reply: Numbers, sent: &Sent) {
        let Sent { today, days, orders } = sent;
        let head = reply.count().and_then(|now| {
            let epochs = days.iter().map(|_| reply.count()).collect::<Result<Vec<u64>, _>>()?;
            Ok((now, epochs))
        });
        let (now, epochs) = match head {
            Ok(head) => head,
            Err(error) => return ops.into_iter().for_each(|op| op.fail(&error)),
        };
        let epoch = days.iter().position(|day| day == today).map_or(0, |i| epochs[i]);
        let record = RecordRef { tag: Arc::clone(&self.place.tag), day: *today, epoch };
        let (settlements, reservations): (Vec<Op>, Vec<Op>) =
            ops.into_iter().partition(|op| matches!(op, Op::Settle { .. }));
        for op in settlements {
            if let Op::Settle { answer, span, .. } = op {
                let settled = reply.count().map(settle_result);
                StoreSpan::ended(span, settled.as_ref().err());
                drop(answer.send(settled));
            }
        }
        for (i, op) in reservations.into_iter().enumerate() {
            if let Op::Reserve { id, meters, how, answer, span } = op {
                let record = (id.is_some() && how == How::Make).then_some(&record);
                let verdict = match how {
                    How::GiveBack => {
                        reply.count().map(|n| Verdict { admitted: n == 1, ..Verdict::default() })
                    }
                    How::Make | How::Look => {
                        let order = orders.get(i).map_or(&[][..], Vec::as_slice);
                        verdict(&mut reply, &meters, order, record, now)
                    }
                };
                StoreSpan::ended(span, verdict.as_ref().err());
                drop(answer.send(verdict));
            }
        }
    }
}

fn settle_result(reply: u64) -> SettleResult {
    match reply {
        0 => SettleResult::First,
        1 => SettleResult::Before { by: None },
        marked => SettleResult::Before { by: Some(marked - 1) },
    }
}

/// Reads the verdict on one reservation. `order` is the script's order of the meters. It is empty if that order equals
/// the order in `meters`.
fn verdict(
    reply: &mut Numbers,
    meters: &[Meter],
    order: &[usize],
    record: Option<&RecordRef>,
    now: u64,
) -> Result<Verdict, StoreError> {
    const REFUSED: u64 = 0;
    const AS_ASKED: u64 = 1;
    let at = |i: usize| order.get(i).copied().unwrap_or(i);
    let result = reply.count()?;
    let admitted = result != REFUSED;
    let mut states = vec![CounterState::default(); meters.len()];
    if !admitted {
        for i in 0..meters.len() {
            let state = &mut states[at(i)];
            state.over = reply.count()? == 1;
            (state.retry_ms, state.final_ms) = (reply.count()?, reply.count()?);
        }
    }
    for i in 0..meters.len() {
        let (meter, state) = (&meters[at(i)], &mut states[at(i)]);
        read(reply, &meter.rule, state, now)?;
        (state.taken, state.window) = if admitted { (meter.cost, state.window) } else { (0, 0) };
        state.reset_ms = meter.rule.reset_ms(state.used, now);
    }
    if admitted && result != AS_ASKED {
        for i in 0..meters.len() {
            let state = &mut states[at(i)];
            (state.window, state.taken) = (reply.count()?, reply.count()?);
        }
    }
    let records = record.filter(|_| admitted).cloned().into_iter().collect();
    Ok(Verdict { admitted, states, records, ..Verdict::default() })
}

/// Reads one counter: the REPLY of its algorithm's file in lua/fragments.
fn read(
    reply: &mut Numbers,
    rule: &CounterRule,
    state: &mut CounterState,
    now: u64,
) -> Result<(), StoreError> {
    state.used = reply.count()?;
    match *rule {
        CounterRule::Fixed { amount, .. } => {
            (state.reserved, state.window, state.amount) = (reply.count()?, reply.count()?, amount);
        }
        CounterRule::Sliding { amount, .. } => (state.window, state.amount) = (reply.count()?, amount),
        CounterRule::TokenBucket { burst, .. } => (state.window, state.amount) = (now, burst),
        CounterRule::Running { amount, .. } => state.amount = amount,
        CounterRule::Prepaid { .. } | CounterRule::Budget { .. } => {
            (state.reserved, state.amount) = (reply.count()?, reply.count()?);
            state.window = reply.count()?;
        }
    }
    Ok(())
}
