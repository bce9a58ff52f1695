//! Stores the tickets of in-flight requests that this sidecar admitted. If a gateway never received the response to its
//! Admit, it settles without a ticket, and the sidecar uses the stored ticket.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use evenkeel_store::counters::ReservationId;
use parking_lot::Mutex;

/// Maximum number of stored tickets. Further requests can be settled only with the ticket from the gateway.
const OPEN_MAX: usize = 131_072;
/// How long a ticket is stored.
const KEPT: Duration = Duration::from_secs(3600);
/// How long a Settle that arrived before its Admit is remembered, because the Admit may still be in progress.
const ENDED_KEPT: Duration = Duration::from_secs(60);
/// Number of shards, each with its own lock, so that requests rarely wait for each other.
const PARTS: usize = 16;

enum State {
    /// Admitted, with this ticket.
    Admitted(Vec<u8>),
    /// Ended before the sidecar had admitted it.
    Ended,
}

type Part = HashMap<ReservationId, (Instant, State)>;

/// Tickets by holder and lease.
#[derive(Default)]
pub(super) struct OpenRequests {
    parts: [Mutex<Part>; PARTS],
}

impl OpenRequests {
    /// Stores a ticket. Returns false if the request has already ended.
    pub(super) fn admitted(&self, id: &ReservationId, ticket: &[u8]) -> bool {
        let mut part = self.part(id).lock();
        if let Some((_, State::Ended)) = part.get(id) {
            part.remove(id);
            return false;
        }
        if part.len() < OPEN_MAX / PARTS {
            part.insert(id.clone(), (Instant::now(), State::Admitted(ticket.to_vec())));
        }
        true
    }

    /// Removes and returns the ticket of a request that has ended. With `is_early`, the Admit may still be in progress.
    /// [`Self::admitted`] then returns false for it.
    pub(super) fn ended(&self, id: &ReservationId, is_early: bool) -> Option<Vec<u8>> {
        let mut part = self.part(id).lock();
        match part.remove(id) {
            Some((_, State::Admitted(ticket))) => Some(ticket),
            _ => {
                if is_early && part.len() < OPEN_MAX / PARTS {
                    part.insert(id.clone(), (Instant::now(), State::Ended));
                }
                None
            }
        }
    }

    /// Drops entries that are too old.
    pub(super) fn purge(&self) {
        for part in &self.parts {
            part.lock().retain(|_, (since, state)| {
                let kept = if matches!(state, State::Ended) { ENDED_KEPT } else { KEPT };
                since.elapsed() < kept
            });
        }
    }

    fn part(&self, id: &ReservationId) -> &Mutex<Part> {
        &self.parts[id.lease.get() as usize % PARTS]
    }
}
