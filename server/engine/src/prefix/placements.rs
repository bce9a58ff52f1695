//! Placements on their way to the other sidecars.

use std::{collections::VecDeque, sync::Arc};

use evenkeel_store::placements::BATCH_BYTES_MAX;

/// Maximum number of placements that wait for the store. The oldest are dropped first: an index may know less.
const UNSHARED_MAX: usize = 8192;
/// Bytes of a placement without its keys, and of a key, at most.
const PLACEMENT_BYTES: usize = 32;
const KEY_BYTES: usize = 9;

/// A prompt on an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    pub(super) endpoint: Arc<str>,
    /// Tokens that are new to the endpoint.
    pub(super) unread: u64,
    /// Keys of the prefixes that the endpoint has now.
    pub(super) keys: Vec<u64>,
    /// Key of the session that is now at the endpoint.
    pub(super) session: Option<u64>,
}

impl Placement {
    /// Returns whether this stands for an endpoint that has lost its cache: nothing is new, and nothing is read.
    pub(super) fn is_loss(&self) -> bool {
        self.unread == 0 && self.keys.is_empty() && self.session.is_none()
    }

    fn bytes_max(&self) -> usize {
        PLACEMENT_BYTES + self.endpoint.len() + self.keys.len() * KEY_BYTES
    }
}

/// The placements that the other sidecars do not know yet.
#[derive(Debug, Default)]
pub(super) struct Unshared(VecDeque<Placement>);

impl Unshared {
    /// Adds a placement, unless it tells the others nothing.
    pub(super) fn push(&mut self, placement: Placement) {
        if !placement.is_loss() {
            self.push_any(placement);
        }
    }

    /// Adds that an endpoint has lost its cache.
    pub(super) fn push_loss(&mut self, endpoint: Arc<str>) {
        self.push_any(Placement { endpoint, unread: 0, keys: Vec::new(), session: None });
    }

    fn push_any(&mut self, placement: Placement) {
        if self.0.len() >= UNSHARED_MAX {
            self.0.pop_front();
        }
        self.0.push_back(placement);
    }

    pub(super) fn take(&mut self) -> Vec<Placement> {
        std::mem::take(&mut self.0).into()
    }

    /// Puts placements back that the store did not take.
    pub(super) fn put_back(&mut self, placements: Vec<Placement>) {
        let room = UNSHARED_MAX.saturating_sub(self.0.len());
        let surplus = placements.len().saturating_sub(room);
        for placement in placements.into_iter().skip(surplus).rev() {
            self.0.push_front(placement);
        }
    }
}

/// The fields of a placement in a batch.
type Fields = (Arc<str>, u64, Vec<u64>, Option<u64>);

/// Encodes placements as batches of a bounded size. `sidecar` distinguishes the sender from all others.
pub(super) fn encode(sidecar: u64, placements: &[Placement]) -> Vec<Vec<u8>> {
    let (mut batches, mut from, mut bytes) = (Vec::new(), 0, 0);
    for (i, placement) in placements.iter().enumerate() {
        let more = placement.bytes_max();
        if i > from && bytes + more > BATCH_BYTES_MAX - KEY_BYTES * 2 {
            batches.push(pack(sidecar, &placements[from..i]));
            (from, bytes) = (i, 0);
        }
        bytes += more;
    }
    if from < placements.len() {
        batches.push(pack(sidecar, &placements[from..]));
    }
    batches
}

fn pack(sidecar: u64, placements: &[Placement]) -> Vec<u8> {
    let fields = |p: &Placement| (Arc::clone(&p.endpoint), p.unread, p.keys.clone(), p.session);
    let fields: Vec<Fields> = placements.iter().map(fields).collect();
    // Fails only for lists of unknown length and for writers that fail.
    rmp_serde::to_vec(&(sidecar, fields)).unwrap_or_default()
}

/// Decodes a batch: its sender and the placements. Returns `None` for a batch of another format.
pub(super) fn decode(batch: &[u8]) -> Option<(u64, Vec<Placement>)> {
    let (sidecar, fields): (u64, Vec<Fields>) = rmp_serde::from_slice(batch).ok()?;
    let placement = |(endpoint, unread, keys, session)| Placement { endpoint, unread, keys, session };
    Some((sidecar, fields.into_iter().map(placement).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placement(n: u64, keys: u64) -> Placement {
        let keys = (0..keys).map(|key| u64::MAX - key).collect();
        Placement {
            endpoint: format!("10.0.0.{n}:8000").into(),
            unread: u64::MAX - n,
            keys,
            session: Some(n).filter(|n| n % 2 == 0),
        }
    }

    #[test]
    fn batches_are_bounded_and_have_everything_in_order() {
        let sent: Vec<Placement> = (0..500).map(|n| placement(n, n * 5 % 1025)).collect();
        let batches = encode(7, &sent);
        assert!(batches.len() > 1 && batches.iter().all(|batch| batch.len() <= BATCH_BYTES_MAX));
        let decoded: Vec<(u64, Vec<Placement>)> =
            batches.iter().map(|batch| decode(batch).unwrap()).collect();
        assert!(decoded.iter().all(|(sidecar, _)| *sidecar == 7));
        assert_eq!(decoded.into_iter().flat_map(|(_, placements)| placements).collect::<Vec<_>>(), sent);
        assert_eq!(encode(7, &[]), Vec::<Vec<u8>>::new());
        assert_eq!(decode(b"not a batch"), None);
    }

    #[test]
    fn what_waits_is_bounded_and_the_newest_stays() {
        let mut unshared = Unshared::default();
        for n in 0..UNSHARED_MAX as u64 + 10 {
            unshared.push(placement(n, 0));
        }
        let mut taken = unshared.take();
        assert_eq!((taken.len(), &taken[0]), (UNSHARED_MAX, &placement(10, 0)));
        unshared.push(placement(1_000_000, 0));
        unshared.put_back(taken.clone());
        taken.remove(0);
        taken.push(placement(1_000_000, 0));
        assert_eq!(unshared.take(), taken);
    }
}
