//! Placements on their way to the other sidecars.

use std::{collections::VecDeque, sync::Arc};

use evenkeel_store::placements::BATCH_BYTES_MAX;

/// Maximum number of bytes of the placements that wait for the store. The oldest are dropped first: an index may know
/// less.
const UNSHARED_BYTES_MAX: usize = 1 << 20;
/// Version of the format of batches.
const FORMAT: u8 = 1;
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
pub(super) struct Unshared {
    placements: VecDeque<Placement>,
    bytes: usize,
}

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
        self.bytes += placement.bytes_max();
        self.placements.push_back(placement);
        while self.bytes > UNSHARED_BYTES_MAX
            && let Some(oldest) = self.placements.pop_front()
        {
            self.bytes -= oldest.bytes_max();
        }
    }

    pub(super) fn take(&mut self) -> Vec<Placement> {
        std::mem::take(self).placements.into()
    }

    /// Puts placements back that the store did not take.
    pub(super) fn put_back(&mut self, placements: Vec<Placement>) {
        let newer = std::mem::take(self).placements;
        placements.into_iter().chain(newer).for_each(|placement| self.push_any(placement));
    }
}

/// The fields of a placement in a batch.
type Fields = (Arc<str>, u64, Vec<u64>, Option<u64>);

/// Encodes the first placements as one batch of a bounded size. Returns how many it has. `sidecar` distinguishes the sender
/// from all others.
pub(super) fn encode(sidecar: u64, placements: &[Placement]) -> (Vec<u8>, usize) {
    let mut bytes = KEY_BYTES * 2;
    let fits = |placement: &&Placement| {
        bytes += placement.bytes_max();
        bytes <= BATCH_BYTES_MAX
    };
    // A placement has at most 1024 keys, so the first one always fits.
    let fields: Vec<Fields> = placements.iter().take_while(fits).map(fields).collect();
    // Fails only for lists of unknown length and for writers that fail.
    (rmp_serde::to_vec(&(FORMAT, sidecar, &fields)).unwrap_or_default(), fields.len())
}

fn fields(placement: &Placement) -> Fields {
    (Arc::clone(&placement.endpoint), placement.unread, placement.keys.clone(), placement.session)
}

/// Decodes a batch: its sender and the placements. Returns `None` for a batch of another format.
pub(super) fn decode(batch: &[u8]) -> Option<(u64, Vec<Placement>)> {
    let (format, sidecar, fields): (u8, u64, Vec<Fields>) = rmp_serde::from_slice(batch).ok()?;
    if format != FORMAT {
        return None;
    }
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
        let (mut rest, mut decoded, mut batches) = (&sent[..], Vec::new(), 0);
        while !rest.is_empty() {
            let (batch, count) = encode(7, rest);
            assert!(count > 0 && batch.len() <= BATCH_BYTES_MAX);
            let (sidecar, placements) = decode(&batch).unwrap();
            assert_eq!(sidecar, 7);
            decoded.extend(placements);
            (rest, batches) = (&rest[count..], batches + 1);
        }
        assert!(batches > 1);
        assert_eq!(decoded, sent);
        assert_eq!(decode(b"not a batch"), None);
        let other = rmp_serde::to_vec(&(FORMAT + 1, 7_u64, Vec::<Fields>::new())).unwrap();
        assert_eq!(decode(&other), None);
    }

    #[test]
    fn what_waits_is_bounded_and_the_newest_stays() {
        let mut unshared = Unshared::default();
        let all: Vec<Placement> = (0..3000).map(|n| placement(n, 64)).collect();
        all.iter().for_each(|one| unshared.push(one.clone()));
        let taken = unshared.take();
        assert!(taken.len() > 1000 && taken.len() < 2500, "{}", taken.len());
        assert_eq!(taken, all[3000 - taken.len()..]);
        unshared.push(placement(1_000_000, 64));
        unshared.put_back(taken.clone());
        let again = unshared.take();
        assert_eq!((again.len(), again.last()), (taken.len(), Some(&placement(1_000_000, 64))));
    }
}
