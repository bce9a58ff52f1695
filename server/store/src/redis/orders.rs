//! Which rosters of a pool are kept in order in Redis, as far as this sidecar knows.
//!
//! A choice from a large roster reads neither the roster nor all loads: the script `commit_ordered` follows an order of the
//! endpoints that Redis keeps. If Redis does not have the roster in order, the sidecar sends the batch with the roster
//! instead, and afterwards adds the roster to the order.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use evenkeel_domain::Roster;
use parking_lot::Mutex;

use super::{
    KEY_EXPIRY_MS,
    call::{Call, pack},
    keys::PoolKeys,
    script::ORDER,
};

/// Number of endpoints from which a roster is kept in order. For fewer, reading all loads costs less.
pub(super) const ORDERED_MIN: usize = 65;
/// Maximum number of different weights and caps in an ordered roster, because each choice compares all of them. Equals
/// CLASSES in lua/fragments/order.lua.
const CLASSES_MAX: usize = 64;
/// Number of rosters that a lane remembers. More come only from gateways that send ever new lists.
const REMEMBERED_MAX: usize = 8;
/// A roster in the order that no sidecar has used for this time may be replaced. A script marks its use once a second.
const IDLE_MS: u64 = 3000;
/// How long a sidecar does not try to add a roster again after it found no place.
const RETRY: Duration = Duration::from_secs(1);

/// The name of a roster in the order.
pub(super) type Digest = Arc<str>;

/// The rosters that a lane has used, newest first.
#[derive(Default)]
pub(super) struct Orders(Mutex<Vec<Known>>);

struct Known {
    roster: Weak<Roster>,
    by_work: bool,
    digest: Digest,
    /// Until when the sidecar does not use the order for this roster.
    not_before: Option<Instant>,
}

impl Orders {
    /// Returns the digest of a roster that the order may have. `None` if the sidecar sends the roster itself. `ordered_min`:
    /// number of endpoints from which rosters are kept in order.
    pub(super) fn digest(&self, roster: &Arc<Roster>, by_work: bool, ordered_min: usize) -> Option<Digest> {
        let is_large = roster.endpoints().len() >= ordered_min && roster.classes().len() <= CLASSES_MAX;
        if !is_large || roster.is_empty() {
            return None;
        }
        let mut known = self.0.lock();
        let is_it = |known: &Known| known.by_work == by_work && known.roster.as_ptr() == Arc::as_ptr(roster);
        if let Some(at) = known.iter().position(is_it) {
            known[..=at].rotate_right(1);
        } else {
            known.truncate(REMEMBERED_MAX - 1);
            let digest = roster.digest(by_work).into();
            known.insert(0, Known { roster: Arc::downgrade(roster), by_work, digest, not_before: None });
        }
        let found = &known[0];
        found.not_before.is_none_or(|until| Instant::now() >= until).then(|| Arc::clone(&found.digest))
    }

    /// Records that the order has no place for a roster, or that this is unknown.
    pub(super) fn refuse(&self, digest: &str) {
        for known in self.0.lock().iter_mut().filter(|known| *known.digest == *digest) {
            known.not_before = Some(Instant::now() + RETRY);
        }
    }
}

/// Returns the call that adds a roster to the order.
pub(super) fn add_call(keys: &PoolKeys, roster: &Roster, by_work: bool, digest: &str) -> Call {
    let classes: Vec<(f64, u32, usize)> =
        roster.classes().iter().map(|class| (class.weight, class.cap, class.endpoints)).collect();
    let addresses: Vec<&str> = roster.in_class_order().map(|endpoint| &*endpoint.address).collect();
    let mut call = Call::new(&ORDER, &keys.loads());
    call.number(KEY_EXPIRY_MS).number(IDLE_MS);
    call.bytes(&pack(&(digest, by_work, classes, addresses)));
    call
}
