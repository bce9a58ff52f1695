//! Room for histograms: a bound on their number over all pools of a sidecar.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Maximum number of pairs of a pool and an endpoint with histograms of their own.
const ENDPOINTS_MAX: usize = 512;
/// Maximum number of pairs of a pool and a model that the configuration does not name.
const MODELS_MAX: usize = 128;
/// Maximum number of pairs of a pool and a model that the configuration names. Models that clients invent do not take
/// their room.
const NAMED_MODELS_MAX: usize = 128;

/// What a histogram's name is, which decides whose room it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Endpoint,
    Model,
    /// A model that the configuration names.
    NamedModel,
}

/// The room that is left in a sidecar.
#[derive(Debug)]
pub struct LatencyRoom {
    /// By [`Kind`].
    left: [AtomicUsize; 3],
}

impl Default for LatencyRoom {
    fn default() -> Self {
        Self { left: [ENDPOINTS_MAX, MODELS_MAX, NAMED_MODELS_MAX].map(AtomicUsize::new) }
    }
}

impl LatencyRoom {
    pub(super) fn is_full(&self, kind: Kind) -> bool {
        self.left[kind as usize].load(Relaxed) == 0
    }

    /// Takes a place; `None` if there is none.
    pub(super) fn take(self: &Arc<Self>, kind: Kind) -> Option<Place> {
        let left = &self.left[kind as usize];
        left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).ok()?;
        Some(Place { room: Arc::clone(self), kind })
    }
}

/// A place in the room, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    room: Arc<LatencyRoom>,
    pub(super) kind: Kind,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.left[self.kind as usize].fetch_add(1, Relaxed);
    }
}
