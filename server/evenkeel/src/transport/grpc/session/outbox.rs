//! What leaves on a stream. Everything that waits is coalesced into the next message.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use evenkeel_proto::v1::{AdmitAnswer, KeepAliveResponse, Settings, ToWorker, Welcome};
use futures::Stream;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Maximum number of answers in one message, because a gateway's Wasm VM can resume only some hundred requests in one
/// call.
const ANSWERS_MAX: usize = 32;

/// What waits for the worker to read. The number of answers is bounded by the number of admissions that a worker may
/// have pending, and of each other part only the last one is kept.
#[derive(Default)]
struct Waiting {
    answers: VecDeque<AdmitAnswer>,
    rest: ToWorker,
    has_rest: bool,
    /// Number of the last acknowledged settlement, which leaves with the next message.
    settled_through: u64,
    end: Option<Result<(), Status>>,
    ended: bool,
    /// Number of messages that have left.
    left: u64,
    waker: Option<Waker>,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Cancelled when the transport drops the stream.
    gone: CancellationToken,
}

/// The session's end of a stream.
pub(super) struct Outbox(Arc<Shared>);

/// The messages to a worker.
pub(in super::super) struct Outgoing(Arc<Shared>);

/// Creates both ends of what leaves on a stream.
pub(super) fn outbox() -> (Outbox, Outgoing) {
    let shared = Arc::<Shared>::default();
    (Outbox(Arc::clone(&shared)), Outgoing(shared))
}

impl Outbox {
    fn put(&self, put: impl FnOnce(&mut Waiting)) {
        let waker = {
            let mut waiting = self.0.waiting.lock();
            put(&mut waiting);
            waiting.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn put_rest(&self, put: impl FnOnce(&mut ToWorker)) {
        self.put(|waiting| {
            put(&mut waiting.rest);
            waiting.has_rest = true;
        });
    }

    pub(super) fn welcome(&self, welcome: Welcome) {
        self.put_rest(|rest| rest.welcome = Some(welcome));
    }

    pub(super) fn answers(&self, answers: &mut Vec<AdmitAnswer>) {
        if !answers.is_empty() {
            self.put(|waiting| waiting.answers.extend(answers.drain(..)));
        }
    }

    /// Puts the number of the last acknowledged settlement, which leaves with the next message. A message of its own
    /// would cost the gateway nearly as much as an answer.
    pub(super) fn acknowledge(&self, settled_through: u64) {
        self.0.waiting.lock().settled_through = settled_through;
    }

    /// Sends an acknowledgement that has found no other message.
    pub(super) fn flush_acknowledgement(&self) {
        self.put(|waiting| waiting.has_rest |= waiting.settled_through > 0);
    }

    pub(super) fn repaired(&self, response: KeepAliveResponse) {
        self.put_rest(|rest| {
            rest.repaired = Some(match rest.repaired.take() {
                Some(earlier) => joined(earlier, response),
                None => response,
            });
        });
    }

    pub(super) fn settings(&self, settings: Settings) {
        self.put_rest(|rest| rest.settings = Some(settings));
    }

    pub(super) fn leave(&self) {
        self.put_rest(|rest| rest.leave = true);
    }

    pub(super) fn ping(&self, number: u64) {
        self.put_rest(|rest| rest.ping = number);
    }

    /// Ends the stream after what waits.
    pub(super) fn end(&self, end: Result<(), Status>) {
        self.put(|waiting| waiting.end = Some(end));
    }

    /// Returns the number of answers that wait.
    pub(super) fn waiting_answers(&self) -> usize {
        self.0.waiting.lock().answers.len()
    }

    /// Returns the number of messages that have left, or `None` if nothing waits.
    pub(super) fn stuck_after(&self) -> Option<u64> {
        let waiting = self.0.waiting.lock();
        (waiting.has_rest || !waiting.answers.is_empty()).then_some(waiting.left)
    }

    /// Waits until the transport drops the stream, because its connection broke or the worker reset it.
    pub(super) fn gone(&self) -> CancellationToken {
        self.0.gone.clone()
    }
}

/// Joins the responses to two lists, so that the worker counts the repairs of both.
fn joined(earlier: KeepAliveResponse, mut later: KeepAliveResponse) -> KeepAliveResponse {
    later.restored += earlier.restored;
    later.dropped += earlier.dropped;
    later.moved += earlier.moved;
    for pool in earlier.refused_pools {
        if !later.refused_pools.contains(&pool) {
            later.refused_pools.push(pool);
        }
    }
    later
}

impl Waiting {
    fn next(&mut self) -> Option<ToWorker> {
        if !self.has_rest && self.answers.is_empty() {
            return None;
        }
        self.has_rest = false;
        let settled_through = std::mem::take(&mut self.settled_through);
        let mut message = ToWorker { settled_through, ..std::mem::take(&mut self.rest) };
        let count = self.answers.len().min(ANSWERS_MAX);
        message.answers = self.answers.drain(..count).collect();
        self.left += 1;
        Some(message)
    }
}

impl Stream for Outgoing {
    type Item = Result<ToWorker, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut waiting = self.0.waiting.lock();
        if waiting.ended {
            return Poll::Ready(None);
        }
        if let Some(message) = waiting.next() {
            return Poll::Ready(Some(Ok(message)));
        }
        match waiting.end.take() {
            Some(end) => {
                waiting.ended = true;
                Poll::Ready(end.err().map(Err))
            }
            None => {
                waiting.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.0.gone.cancel();
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, StreamExt as _};

    use super::*;

    #[test]
    fn what_waits_leaves_in_few_messages() {
        let (outbox, mut outgoing) = outbox();
        assert!(outgoing.next().now_or_never().is_none());
        let answer = |lease| AdmitAnswer { lease, answer: None };
        outbox.answers(&mut (1..=40).map(answer).collect());
        outbox.acknowledge(7);
        outbox.acknowledge(9);
        outbox.ping(3);
        for dropped in [2, 3] {
            outbox.repaired(KeepAliveResponse { dropped, ..KeepAliveResponse::default() });
        }
        assert_eq!((outbox.waiting_answers(), outbox.stuck_after()), (40, Some(0)));
        outbox.end(Err(Status::aborted("x")));
        let first = outgoing.next().now_or_never().unwrap().unwrap().unwrap();
        assert_eq!((first.answers.len(), first.settled_through, first.ping), (32, 9, 3));
        assert_eq!(first.repaired.unwrap().dropped, 5);
        let second = outgoing.next().now_or_never().unwrap().unwrap().unwrap();
        assert_eq!((second.answers.len(), second.settled_through, second.ping), (8, 0, 0));
        assert_eq!(outbox.stuck_after(), None);
        assert!(outgoing.next().now_or_never().unwrap().unwrap().is_err());
        assert!(outgoing.next().now_or_never().unwrap().is_none());
        let gone = outbox.gone();
        drop(outgoing);
        assert!(gone.is_cancelled());
    }

    #[test]
    fn an_acknowledgement_alone_leaves_only_when_it_is_flushed() {
        let (outbox, mut outgoing) = outbox();
        outbox.acknowledge(7);
        assert!(outgoing.next().now_or_never().is_none());
        outbox.flush_acknowledgement();
        let message = outgoing.next().now_or_never().unwrap().unwrap().unwrap();
        assert_eq!(message, ToWorker { settled_through: 7, ..ToWorker::default() });
        outbox.flush_acknowledgement();
        assert!(outgoing.next().now_or_never().is_none());
    }
}
