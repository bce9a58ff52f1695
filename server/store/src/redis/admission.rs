//! Admissions, first tokens and settlements of one pool, in batches.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, atomic::Ordering},
};

use evenkeel_domain::{HolderId, LeaseId, Roster, StoreError};

use super::{
    batch::Batch,
    call::{Call, Reply},
    lane::{BATCH_MAX, Work},
    link::Way,
    operation::{Kind, Op, PoolWork},
    orders::{self, Digest},
};

impl Work for PoolWork {
    type Op = Op;

    /// Takes operations in order, until an admission chooses from another roster or by another policy, or a lease comes a
    /// second time.
    fn next_batch(queue: &VecDeque<Op>) -> usize {
        let mut first: Option<(&Arc<Roster>, bool)> = None;
        let mut named: HashSet<(&HolderId, LeaseId)> = HashSet::with_capacity(queue.len().min(BATCH_MAX));
        let mut count = 0;
        for op in queue.iter().take(BATCH_MAX) {
            if let Kind::Admit { roster, prompt, .. } = &op.kind {
                let (other, by_work) = first.get_or_insert((roster, prompt.is_some()));
                if !Arc::ptr_eq(other, roster) || *by_work != prompt.is_some() {
                    break;
                }
            }
            if !named.insert((&op.holder, op.lease)) {
                break;
            }
            count += 1;
        }
        count
    }

    async fn commit(&self, mut ops: Vec<Op>) {
        let operations = ops.len();
        ops.iter_mut().filter_map(|op| op.span.as_mut()).for_each(|span| span.sent(operations));
        self.shared.metrics.store_batch.observe(ops.len() as f64);
        let batch = Batch::new(ops);
        let choice = batch.choice.as_ref();
        let roster = choice.map(|choice| (Arc::clone(&choice.roster), choice.by_work));
        let mut to_add = None;
        if let Some((roster, by_work)) = roster
            && let Some(digest) = self.ordered(&roster, by_work)
        {
            match self.send(&batch.ordered_call(self, &digest)).await {
                Err(error) => return batch.fail(&error),
                Ok((Some(clamped), reply)) => return batch.deliver(clamped, reply, &self.shared.metrics),
                Ok((None, _)) => to_add = Some((roster, by_work, digest)),
            }
        }
        match self.send(&batch.call(self)).await {
            Err(error) => return batch.fail(&error),
            Ok((clamped, reply)) => {
                batch.deliver(clamped.unwrap_or_default(), reply, &self.shared.metrics);
            }
        }
        if let Some((roster, by_work, digest)) = to_add {
            self.add_to_order(&roster, by_work, &digest).await;
        }
    }

    fn fail(op: Op, error: &StoreError) {
        op.fail(error);
    }
}

impl PoolWork {
    /// Returns the number of settlements that the script clamped, and its further answers. `None` if Redis does not have the
    /// roster in order, and nothing has changed.
    async fn send(&self, call: &Call) -> Result<(Option<u64>, Reply), StoreError> {
        let mut reply = self.shared.client.run(call, Way::Request).await?;
        reply.integer()?;
        Ok((u64::try_from(reply.integer()?).ok(), reply))
    }

    /// Returns the digest of a roster that Redis may have in order. `None` if the sidecar sends the roster itself.
    fn ordered(&self, roster: &Arc<Roster>, by_work: bool) -> Option<Digest> {
        // The order cannot know what other gateways do in Higress's table.
        let min = self.shared.ordered_min.load(Ordering::Relaxed);
        if self.pool.higress_table { None } else { self.orders.digest(roster, by_work, min) }
    }

    /// Adds a roster to the order. If that fails, the sidecar sends the roster itself for a while.
    async fn add_to_order(&self, roster: &Roster, by_work: bool, digest: &str) {
        let call = orders::add_call(&self.keys, roster, by_work, digest);
        let added = async {
            let mut reply = self.shared.client.run(&call, Way::Beside).await?;
            reply.integer()?;
            Ok::<bool, StoreError>(reply.integer()? == 1)
        };
        if !matches!(added.await, Ok(true)) {
            self.orders.refuse(digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn op(lease: u64, roster: Option<&Arc<Roster>>) -> Op {
        let (holder, lease) = (HolderId::new("h").unwrap(), LeaseId::new(lease).unwrap());
        let kind = match roster {
            Some(roster) => {
                Kind::Admit { roster: Arc::clone(roster), tie: 0, prompt: None, answer: oneshot::channel().0 }
            }
            None => Kind::Settle { answer: oneshot::channel().0 },
        };
        Op { holder, lease, kind, span: None }
    }

    fn take(queue: &mut VecDeque<Op>) -> usize {
        let count = PoolWork::next_batch(queue);
        queue.drain(..count).count()
    }

    #[test]
    fn a_batch_has_one_roster_no_lease_twice_and_a_bound() {
        let (a, b) = (Arc::new(Roster::default()), Arc::new(Roster::default()));
        let rosters = [None, Some(&a), None, Some(&a), Some(&b), None];
        let mut queue: VecDeque<Op> = (1..).zip(rosters).map(|(lease, roster)| op(lease, roster)).collect();
        assert_eq!(take(&mut queue), 4);
        assert_eq!(take(&mut queue), 2);
        assert_eq!(take(&mut queue), 0);
        queue.extend([op(1, Some(&a)), op(2, None), op(1, None)]);
        assert_eq!(take(&mut queue), 2);
        assert_eq!(take(&mut queue), 1);
        queue.extend((1..=BATCH_MAX as u64 + 1).map(|lease| op(lease, None)));
        assert_eq!(take(&mut queue), BATCH_MAX);
    }
}
