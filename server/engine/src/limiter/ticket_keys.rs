//! Signs and verifies tickets, so that nobody can forge a reservation or a consumer. A signed ticket ends with a MAC over
//! the ticket, its holder and its lease.
//!
//! The keys come from a file, or all sidecars share those in the store. Each sidecar also has the shared keys in memory,
//! and restores them if the store loses them. The oldest key signs, and all verify.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU8, Ordering},
};

use arc_swap::ArcSwap;
use evenkeel_domain::{StoreError, clock::unix_ms, settings::Secret};
use evenkeel_store::{
    counters::ReservationId,
    ticket_keys::{TICKET_KEY_AGE_MAX_MS, TICKET_KEY_BYTES, TICKET_KEYS_MAX, TicketKey, TicketKeyStore},
};
use ring::hmac;
use subtle::ConstantTimeEq as _;

use super::Ticket;

/// Length of the MAC, in bytes: half of the digest. Each guess must be sent to a sidecar, which counts it, so 128 bits are
/// far more than enough, and gateways store and send a ticket for each request in flight.
pub(super) const MAC_BYTES: usize = 16;
/// Maximum age of a ticket, in seconds. The records that make a settlement idempotent expire two days after the first
/// reservation of their day, so an older ticket could charge its request again. Responses last minutes, and the longest
/// connections of realtime APIs an hour or two.
pub const TICKET_AGE_MAX_S: u64 = 86_400;
/// Separates these MACs from those of any other use of the same key.
const PURPOSE: &[u8] = b"evenkeel ticket 1";

/// How many intervals after the store was found again this sidecar has the keys of all others: in the first, they share
/// theirs, and in the next, this one reads them. One more, because intervals of sidecars begin at different times.
const INTERVALS_AFTER_LOSS: u8 = 3;

/// Why a ticket changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// No key verifies it: it is forged, cut off or of another holder or lease, or its key is gone.
    NotVerified,
    /// It is older than [`TICKET_AGE_MAX_S`].
    TooOld,
    /// This sidecar may not have all shared keys yet: the store was not available since the sidecar started, or was lost
    /// until a moment ago, and another sidecar that started meanwhile signs with a key that is not in the store yet.
    KeyUnknown,
}

/// The keys of this sidecar.
pub struct TicketKeys {
    keys: ArcSwap<Vec<Key>>,
    /// The store with the shared keys. `None` if the keys come from a file, or if this sidecar shares nothing.
    store: Option<Arc<dyn TicketKeyStore>>,
    /// Whether the store has returned the shared keys since this sidecar started.
    is_merged: AtomicBool,
    /// Number of intervals until all sidecars have shared their keys, after the store was lost.
    intervals_awaited: AtomicU8,
}

struct Key {
    /// The key as the store knows it. `None` for a key of a file.
    shared: Option<TicketKey>,
    hmac: hmac::Key,
}

impl Key {
    fn of_store(key: TicketKey) -> Self {
        Self { shared: Some(key), hmac: hmac::Key::new(hmac::HMAC_SHA256, &key.bytes) }
    }

    fn mac(&self, id: &ReservationId, ticket: &[u8]) -> [u8; MAC_BYTES] {
        let mut context = hmac::Context::with_key(&self.hmac);
        let holder = id.holder.as_str().as_bytes();
        // The length separates the holder from the lease.
        context.update(PURPOSE);
        context.update(&(holder.len() as u64).to_le_bytes());
        context.update(holder);
        context.update(&id.lease.get().to_le_bytes());
        context.update(ticket);
        let mut mac = [0; MAC_BYTES];
        mac.copy_from_slice(&context.sign().as_ref()[..MAC_BYTES]);
        mac
    }
}

impl TicketKeys {
    /// Uses the keys of a file. The first signs.
    #[must_use]
    pub fn of_file(secrets: &[Secret]) -> Self {
        Self {
            keys: ArcSwap::from_pointee(of_secrets(secrets)),
            store: None,
            is_merged: true.into(),
            intervals_awaited: 0.into(),
        }
    }

    /// Uses the keys that all sidecars share in this store, after [`Self::refresh`]. Until then, and without a store, uses
    /// a new key.
    #[must_use]
    pub fn shared(store: Option<Arc<dyn TicketKeyStore>>) -> Self {
        let bytes: [u8; TICKET_KEY_BYTES] = rand::random();
        let new = Key::of_store(TicketKey { made_ms: unix_ms(), bytes });
        let is_merged = store.is_none().into();
        Self { keys: ArcSwap::from_pointee(vec![new]), store, is_merged, intervals_awaited: 0.into() }
    }

    /// Replaces the keys of a file by those that the file has now.
    pub fn replace(&self, secrets: &[Secret]) {
        self.keys.store(Arc::new(of_secrets(secrets)));
    }

    /// Notes that the store was lost during the last interval.
    pub fn store_lost(&self) {
        if self.store.is_some() {
            self.intervals_awaited.store(INTERVALS_AFTER_LOSS, Ordering::Relaxed);
        }
    }

    /// Notes that an interval has passed in which all sidecars could share their keys.
    pub fn interval_passed(&self) {
        let awaited = self.intervals_awaited.load(Ordering::Relaxed);
        self.intervals_awaited.store(awaited.saturating_sub(1), Ordering::Relaxed);
    }

    /// Reads the shared keys from the store, and restores those that the store has lost. `in_use` is false if no ticket
    /// carries this sidecar's own key yet.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn refresh(&self, in_use: bool) -> Result<(), StoreError> {
        let Some(store) = &self.store else { return Ok(()) };
        let mine: Vec<TicketKey> = self.keys.load().iter().filter_map(|key| key.shared).collect();
        let mut keys = store.merge(&mine, in_use).await?;
        if in_use {
            keys.extend(mine.iter().filter(|key| !keys.contains(key)).copied().collect::<Vec<_>>());
        }
        keys.sort_unstable();
        let (now_ms, oldest_ms) = (unix_ms(), keys.first().map_or(0, |key| key.made_ms));
        keys.retain(|key| {
            key.made_ms == oldest_ms || now_ms.saturating_sub(key.made_ms) <= TICKET_KEY_AGE_MAX_MS
        });
        keys.truncate(TICKET_KEYS_MAX);
        if !keys.is_empty() && keys != mine {
            self.keys.store(Arc::new(keys.into_iter().map(Key::of_store).collect()));
        }
        self.is_merged.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Encodes and signs a ticket.
    #[must_use]
    pub(super) fn issue(&self, ticket: Ticket, id: &ReservationId) -> Vec<u8> {
        let mut bytes = Ticket { issued_s: unix_ms() / 1000, ..ticket }.encode();
        if let Some(key) = self.keys.load().first() {
            let mac = key.mac(id, &bytes);
            bytes.extend_from_slice(&mac);
        }
        bytes
    }

    /// Verifies and decodes a ticket that a gateway sent.
    ///
    /// # Errors
    /// If no sidecar issued this ticket for this holder and lease, or issued it too long ago.
    pub(super) fn open(&self, bytes: &[u8], id: &ReservationId) -> Result<Ticket, Rejected> {
        let unverified = || {
            let has_all =
                self.is_merged.load(Ordering::Relaxed) && self.intervals_awaited.load(Ordering::Relaxed) == 0;
            if has_all { Rejected::NotVerified } else { Rejected::KeyUnknown }
        };
        let (ticket, mac) = bytes.split_last_chunk::<MAC_BYTES>().ok_or_else(unverified)?;
        let is_signed = self.keys.load().iter().any(|key| key.mac(id, ticket).ct_eq(mac).into());
        let ticket = if is_signed { Ticket::decode(ticket) } else { None };
        let ticket = ticket.ok_or_else(unverified)?;
        let age_s = (unix_ms() / 1000).saturating_sub(ticket.issued_s);
        if age_s > TICKET_AGE_MAX_S { Err(Rejected::TooOld) } else { Ok(ticket) }
    }

    /// Decodes a ticket that this sidecar has kept itself.
    pub(crate) fn open_own(bytes: &[u8]) -> Option<Ticket> {
        let (ticket, _) = bytes.split_last_chunk::<MAC_BYTES>()?;
        Ticket::decode(ticket)
    }
}

fn of_secrets(secrets: &[Secret]) -> Vec<Key> {
    let key = |secret: &Secret| Key {
        shared: None,
        hmac: hmac::Key::new(hmac::HMAC_SHA256, secret.reveal().as_bytes()),
    };
    secrets.iter().map(key).collect()
}

#[cfg(test)]
mod tests;
