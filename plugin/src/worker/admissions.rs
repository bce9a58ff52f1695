//! Admissions without an answer, by lease.

use std::collections::VecDeque;

use evenkeel_proto::v1::admit_answer::Answer;

/// Maximum number of admissions without an answer, until the sidecar states its own.
const PENDING_MAX: usize = 4096;

/// An admission without an answer.
#[derive(Debug)]
pub(super) struct Admission {
    lease: u64,
    /// The stream whose request waits.
    pub(super) context: u32,
    pub(super) deadline_ms: u64,
    /// The encoded `AdmitRequest`, which may have to be sent again.
    pub(super) request: Vec<u8>,
    /// True if the request was sent on the current stream.
    pub(super) sent: bool,
    /// True if the request was sent on any stream, so that the sidecar may have granted the lease.
    pub(super) asked: bool,
    /// True if the request has gone on without the answer, which still brings its ticket.
    late: bool,
    /// When a tick found that the deadline had passed. The worker then first reads what the sidecar has sent: after a
    /// pause of the worker itself, the answer may be there.
    overdue_ms: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Admissions {
    /// In the order of leases. A map would add 10 KB to the module.
    pending: VecDeque<Admission>,
    /// How many of `pending` were sent on the current stream.
    sent: usize,
    /// How many of `pending` are late.
    late: usize,
    /// Answers that the plugin has not applied yet, with the stream of each.
    answers: VecDeque<(u64, u32, Option<Answer>)>,
    pending_max: usize,
}

impl Default for Admissions {
    fn default() -> Admissions {
        let (pending, answers) = (VecDeque::new(), VecDeque::new());
        Admissions { pending, sent: 0, late: 0, answers, pending_max: PENDING_MAX }
    }
}

impl Admissions {
    /// Sets the maximum number of admissions without an answer; 0 leaves it unchanged.
    pub(super) fn set_max(&mut self, pending_max: usize) {
        if pending_max > 0 {
            self.pending_max = pending_max;
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= self.pending_max
    }

    /// Returns whether no request waits.
    pub(super) fn is_empty(&self) -> bool {
        self.pending.len() == self.late && self.answers.is_empty()
    }

    /// Returns whether answers wait to be applied.
    pub(super) fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }

    /// Adds an admission. Its lease is larger than those of all earlier admissions.
    pub(super) fn add(&mut self, lease: u64, context: u32, deadline_ms: u64, request: Vec<u8>) {
        let (sent, asked, late) = (false, false, false);
        let overdue_ms = None;
        self.pending.push_back(Admission {
            lease,
            context,
            deadline_ms,
            request,
            sent,
            asked,
            late,
            overdue_ms,
        });
    }

    /// Returns the leases whose admissions the current stream has not sent yet, up to the sidecar's bound.
    pub(super) fn unsent(&self) -> Vec<u64> {
        if self.sent == self.pending.len() {
            return Vec::new();
        }
        let unsent = self.pending.iter().filter(|admission| !admission.sent).map(|admission| admission.lease);
        unsent.take(self.pending_max.saturating_sub(self.sent)).collect()
    }

    /// Records that an admission is being sent. Returns its request, and whether it is sent again.
    pub(super) fn send(&mut self, lease: u64) -> Option<(&[u8], bool)> {
        let index = self.index(lease)?;
        let admission = &mut self.pending[index];
        if std::mem::replace(&mut admission.sent, true) {
            return None;
        }
        self.sent += 1;
        let again = std::mem::replace(&mut admission.asked, true);
        Some((&admission.request, again))
    }

    /// Removes an admission, because its answer came or its request no longer waits.
    pub(super) fn remove(&mut self, lease: u64) -> Option<Admission> {
        let admission = self.pending.remove(self.index(lease)?)?;
        self.sent -= usize::from(admission.sent);
        self.late -= usize::from(admission.late);
        Some(admission)
    }

    /// Ends the wait of a request that goes on. The admission still counts as one without an answer, because the
    /// sidecar counts it too.
    pub(super) fn go_on(&mut self, lease: u64) {
        let Some(index) = self.index(lease) else { return };
        if self.pending[index].sent {
            self.pending[index].late = true;
            self.pending[index].request = Vec::new();
            self.late += 1;
        } else {
            self.remove(lease);
        }
    }

    fn index(&self, lease: u64) -> Option<usize> {
        self.pending.binary_search_by_key(&lease, |admission| admission.lease).ok()
    }

    /// Takes the sidecar's answer; does nothing if no request waits for it.
    pub(super) fn answer(&mut self, lease: u64, answer: Option<Answer>) {
        if let Some(admission) = self.remove(lease) {
            self.answers.push_back((lease, admission.context, answer));
        }
    }

    /// Returns the next answer to apply, with its lease and its stream.
    pub(super) fn next_answer(&mut self) -> Option<(u64, u32, Option<Answer>)> {
        self.answers.pop_front()
    }

    /// Notes the admissions whose deadlines have passed. Returns whether there are any.
    pub(super) fn note_overdue(&mut self, now_ms: u64) -> bool {
        let waiting = self.pending.iter_mut().filter(|admission| !admission.late);
        let mut is_overdue = false;
        for admission in waiting.filter(|admission| now_ms >= admission.deadline_ms) {
            is_overdue = true;
            admission.overdue_ms.get_or_insert(now_ms);
        }
        is_overdue
    }

    /// Returns an admission that was overdue before this tick, unless its request has gone on: its lease, its stream,
    /// and whether the sidecar may have granted it.
    pub(super) fn next_expired(&self, now_ms: u64) -> Option<(u64, u32, bool)> {
        let is_expired = |admission: &&Admission| {
            !admission.late
                && (!admission.sent || admission.overdue_ms.is_some_and(|noted_ms| noted_ms < now_ms))
                && now_ms >= admission.deadline_ms
        };
        let expired = self.pending.iter().find(is_expired)?;
        Some((expired.lease, expired.context, expired.asked))
    }

    /// Prepares every admission for which a request waits to be sent again on another stream.
    pub(super) fn on_cut(&mut self) {
        self.pending.retain(|admission| !admission.late);
        self.late = 0;
        self.pending.iter_mut().for_each(|admission| admission.sent = false);
        self.sent = 0;
    }
}
