//! Tickets of running requests that this sidecar admitted, for a gateway that settles without one because it never
//! received the response.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use evenkeel_store::counters::ReservationId;
use parking_lot::Mutex;

/// Most tickets kept. Further requests can be settled only with their ticket.
const OPEN_MAX: usize = 131_072;
/// How long a ticket is kept.
const KEPT: Duration = Duration::from_secs(3600);
/// How long the end of a request is kept while its Admit may still be under way.
const ENDED_KEPT: Duration = Duration::from_secs(60);
/// Parts with a lock each, so that requests seldom wait for each other.
const PARTS: usize = 16;

enum State {
    /// Admitted with this ticket.
    Admitted(Vec<u8>),
    /// Ended before it was admitted.
    Ended,
}

type Part = HashMap<ReservationId, (Instant, State)>;

/// Tickets by holder and lease.
#[derive(Default)]
pub(super) struct OpenRequests {
    parts: [Mutex<Part>; PARTS],
}

impl OpenRequests {
    /// Keeps a ticket. False where the request has already ended.
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

    /// Removes and returns the ticket of a request that has ended. With `is_early` its Admit may still be under way,
    /// and [`Self::admitted`] then returns false.
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

    /// Forgets entries past their age.
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
