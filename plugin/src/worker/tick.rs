//! The tick: applies answers and deadlines, maintains the stream, and lists the leases. It is fast only while something
//! is pending.

use std::rc::Rc;

use super::{Phase, Worker, passed::Cause, unanswered::WithoutAnswer};
use crate::{attributes, host::Host, lease_table::Location, metrics::Counter};

/// Maximum number of requests that one callback resumes or answers. A gateway's Wasm VM traps if one call resumes some
/// hundreds.
pub(super) const RESUMED_MAX: usize = 32;

/// Tick period while requests wait to be resumed or a stream must be opened.
const URGENT_MS: u64 = 1;

/// Tick period while an answer, an acknowledgement or a stream is pending: the resolution of deadlines, and the longest
/// time that a settlement waits.
pub(super) const FAST_MS: u64 = 10;

/// Maximum number of streams whose upstream address is looked up before a list; the next list continues with the rest.
pub(super) const LOCATED_MAX: usize = 4096;

impl Worker {
    /// Handles a tick. The root context must be the effective context.
    pub fn on_tick(&mut self, host: &dyn Host) {
        let now_ms = host.now_ms();
        let mut left = RESUMED_MAX - self.apply_answers(host);
        left -= self.expire_admissions(host, now_ms, left);
        let is_overdue = self.admissions.note_overdue(now_ms);
        if now_ms >= self.slow_due_ms {
            left -= self.time_out_bodies(host, now_ms, left);
            self.slow_due_ms = now_ms + self.slow_ms();
        }
        host.enter(self.root);
        self.maintain_stream(host, now_ms);
        if self.connection.is_ready() && now_ms >= self.list.due_ms() {
            self.locate_streams(host);
            host.enter(self.root);
            self.lease_table.prune(now_ms);
            self.send_list(host, now_ms);
        }
        self.send_unsent(host);
        self.connectivity.log_change(host, &self.config, now_ms);
        if left == 0 {
            self.slow_due_ms = now_ms;
        }
        let period_ms = if is_overdue { URGENT_MS } else { self.pace_ms(now_ms) };
        self.next_tick_ms = now_ms + period_ms;
        if period_ms != self.tick_ms {
            self.tick_ms = period_ms;
            host.set_tick_ms(period_ms);
        }
    }

    /// Returns the time until the next tick is needed.
    fn pace_ms(&self, now_ms: u64) -> u64 {
        let is_pending = !self.admissions.is_empty() || self.outbox.has_unsent();
        if self.admissions.has_answers() || self.connection.must_open(now_ms) {
            return URGENT_MS;
        }
        let list_due_ms = if self.connection.is_ready() { self.list.due_ms() } else { u64::MAX };
        let due_ms = self.slow_due_ms.min(list_due_ms).min(self.connection.due_ms());
        let due_ms = if is_pending { due_ms.min(now_ms + FAST_MS) } else { due_ms };
        due_ms.saturating_sub(now_ms).max(URGENT_MS)
    }

    /// Makes the next tick come earlier if something has become pending. Any context may be the effective context.
    pub(super) fn hurry(&mut self, host: &dyn Host, now_ms: u64) {
        let period_ms = self.pace_ms(now_ms);
        if now_ms + period_ms < self.next_tick_ms {
            self.next_tick_ms = now_ms + period_ms;
            self.tick_ms = period_ms;
            host.set_tick_ms(period_ms);
        }
    }

    /// Applies the sidecar's answers, up to [`RESUMED_MAX`]. Returns their number. Changes the effective context.
    pub(super) fn apply_answers(&mut self, host: &dyn Host) -> usize {
        let mut applied = 0;
        while applied < RESUMED_MAX
            && let Some((lease, context, answer)) = self.admissions.next_answer()
        {
            let Some(stream) = self.streams.get_mut(&context) else { continue };
            if stream.phase == (Phase::AwaitingAdmit { lease }) {
                if host.enter(context) {
                    self.on_admit_answer(host, context, answer);
                    applied += 1;
                }
            } else if stream.lease == Some(lease) {
                self.on_late_answer(host, context, answer);
            }
        }
        applied
    }

    /// Ends the wait of up to `max` requests whose deadline has passed. Returns their number. Changes the effective
    /// context.
    fn expire_admissions(&mut self, host: &dyn Host, now_ms: u64, max: usize) -> usize {
        let mut expired = 0;
        while expired < max
            && let Some((lease, context, is_asked)) = self.admissions.next_expired(now_ms)
        {
            expired += 1;
            self.connection.missed += u32::from(is_asked);
            let is_late = is_asked && self.connection.is_ready();
            let cause = if is_late { Cause::Late } else { Cause::Unreachable };
            let without = self.without_answer(host, context);
            let held = self.lease_table.get(lease);
            if matches!(without, WithoutAnswer::GoOn) && held.is_some() {
                self.admissions.go_on(lease);
            } else {
                let pool = held.map(|held| Rc::clone(&held.pool));
                let admission = self.admissions.remove(lease);
                if let Some(admission) = admission.filter(|admission| admission.asked) {
                    self.cancel(host, lease, admission.sent, pool);
                }
            }
            if host.enter(context) {
                self.on_deadline(host, context, cause, without);
            }
        }
        expired
    }

    /// Returns the time between two looks at the bodies that are being buffered, and at the log.
    fn slow_ms(&self) -> u64 {
        let interval_ms = self.list.interval_ms();
        if self.buffers_bodies() { interval_ms.min(self.config.body_wait_ms) } else { interval_ms }
    }

    /// Looks up the upstream addresses of requests that have no response yet. Changes the effective context.
    fn locate_streams(&mut self, host: &dyn Host) {
        if !self.config.apply.by_address() {
            return;
        }
        let leases = self.lease_table.leases_after(self.located_through, LOCATED_MAX);
        self.located_through = match leases.last() {
            Some((lease, _)) if leases.len() == LOCATED_MAX => *lease,
            _ => 0,
        };
        for (_, context) in leases {
            let is_due =
                self.streams.get(&context).is_some_and(|s| s.phase == Phase::Decided && !s.response_started);
            if is_due && host.enter(context) {
                self.update_location(host, context);
            }
        }
    }

    /// Sets the location of a stream's lease to the upstream address in use. Returns whether there is one.
    pub(super) fn update_location(&mut self, host: &dyn Host, context: u32) -> bool {
        let Some(stream) = self.streams.get_mut(&context) else { return false };
        let Some(lease) = stream.lease.filter(|_| self.config.apply.by_address()) else { return false };
        let Some(actual) = attributes::upstream_address(host) else { return false };
        let lease_at = self.lease_table.get(lease).map(|held| &held.location);
        if matches!(lease_at, Some(Location::At(endpoint)) if **endpoint == *actual) {
            return true;
        }
        if stream.chosen_endpoint.as_deref().is_some_and(|chosen| chosen != actual)
            && !stream.mismatch_counted
        {
            stream.mismatch_counted = true;
            host.count(Counter::EndpointMismatches, 1);
        }
        self.lease_table.set_location(lease, Location::At(actual.into()));
        true
    }
}
