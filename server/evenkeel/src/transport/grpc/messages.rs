//! The body of a gRPC request, whose messages are compared with their bounds while they arrive. tonic gets a message when
//! it has arrived as a whole, because tonic takes memory for a message as soon as its length is announced.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Error,
    body::{Body, Bytes},
};
use evenkeel_telemetry::Metrics;
use hyper::body::Frame;
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::fields::{Counted, FIELDS_MAX, Fields};
use crate::transport::{
    connections::{InProgress, Peer},
    memory::Charge,
};

/// Maximum time in which a message must arrive, and a unary request must end.
const ARRIVES_WITHIN: Duration = Duration::from_secs(10);
/// Length of the head of a message: a flag and the length of the message.
const HEAD: usize = 5;

/// What the messages of a method may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Name of the method, for errors.
    pub(super) method: &'static str,
    pub(super) bytes_max: usize,
    /// Whether the request has any number of messages, at any time.
    pub(super) is_stream: bool,
    pub(super) counted: Counted,
}

/// What a request takes, until its response has ended.
pub(super) struct Taken {
    pub(super) charge: Charge,
    /// Set once the first message has arrived: before, the connection has no claim to its place.
    pub(super) in_progress: OnceLock<InProgress>,
}

pub(super) struct Messages {
    inner: Body,
    bounds: Bounds,
    metrics: Arc<Metrics>,
    peer: Option<Peer>,
    taken: Arc<Taken>,
    head: [u8; HEAD],
    /// Number of bytes of the head that have arrived.
    head_read: usize,
    /// Number of bytes of the message that have not arrived. 0 before the head has arrived.
    left: usize,
    /// Length of the message.
    length: usize,
    fields: Fields,
    /// Bytes that are charged for messages.
    charged: usize,
    /// Pieces of the body that tonic does not have yet.
    pieces: VecDeque<Bytes>,
    /// Number of pieces that belong to messages that have arrived.
    complete: usize,
    timer: Option<Pin<Box<Sleep>>>,
    /// Whether a message has arrived.
    has_message: bool,
    has_ended: bool,
}

impl Messages {
    pub(super) fn new(
        inner: Body,
        bounds: Bounds,
        metrics: Arc<Metrics>,
        peer: Option<Peer>,
        taken: Arc<Taken>,
    ) -> Self {
        Self {
            inner,
            bounds,
            metrics,
            peer,
            taken,
            head: [0; HEAD],
            head_read: 0,
            left: 0,
            length: 0,
            fields: Fields::new(bounds.counted),
            charged: 0,
            pieces: VecDeque::new(),
            complete: 0,
            timer: None,
            has_message: false,
            has_ended: false,
        }
    }

    /// Compares a piece of the body with the bounds, and stores it.
    fn read(&mut self, mut piece: Bytes) -> Result<(), Status> {
        if self.bounds.is_stream && self.is_between() {
            // The reader has taken what came before.
            self.taken.charge.remove(std::mem::take(&mut self.charged));
        }
        let mut at = 0;
        while at < piece.len() {
            let bytes = &piece[at..];
            if self.head_read < HEAD {
                let taken = bytes.len().min(HEAD - self.head_read);
                self.head[self.head_read..][..taken].copy_from_slice(&bytes[..taken]);
                self.head_read += taken;
                at += taken;
                if self.head_read == HEAD {
                    self.begin()?;
                }
            } else {
                let taken = bytes.len().min(self.left);
                self.message(&bytes[..taken])?;
                at += taken;
            }
            if self.head_read == HEAD && self.left == 0 {
                self.end();
                self.pieces.push_back(piece.split_to(at));
                self.complete = self.pieces.len();
                at = 0;
            }
        }
        if !piece.is_empty() {
            self.pieces.push_back(piece);
        }
        Ok(())
    }

    /// Returns the next piece that tonic may have.
    fn complete(&mut self) -> Option<Bytes> {
        if self.complete == 0 && !self.has_ended {
            return None;
        }
        self.complete = self.complete.saturating_sub(1);
        self.pieces.pop_front()
    }

    /// Begins a message whose head has arrived.
    fn begin(&mut self) -> Result<(), Status> {
        let length = u32::from_be_bytes([self.head[1], self.head[2], self.head[3], self.head[4]]) as usize;
        let Bounds { method, bytes_max, .. } = self.bounds;
        if length > bytes_max {
            self.metrics.bounds.refused.too_large.inc();
            return Err(Status::resource_exhausted(format!(
                "message of {method}: must be at most {bytes_max} bytes, got {length}"
            )));
        }
        (self.left, self.length) = (length, length);
        self.fields.restart();
        Ok(())
    }

    /// Reads a piece of a message.
    fn message(&mut self, bytes: &[u8]) -> Result<(), Status> {
        self.left -= bytes.len();
        if !self.taken.charge.add(bytes.len(), self.length) {
            self.metrics.bounds.refused.memory.inc();
            return Err(exhausted());
        }
        self.charged += bytes.len();
        if !self.fields.read(bytes) {
            self.metrics.bounds.refused.too_many_parts.inc();
            return Err(Status::resource_exhausted(format!(
                "message of {}: must have at most {FIELDS_MAX} fields",
                self.bounds.method
            )));
        }
        Ok(())
    }

    fn end(&mut self) {
        self.head_read = 0;
        self.has_message = true;
        if self.bounds.is_stream {
            self.timer = None;
        }
        if let Some(peer) = &self.peer {
            self.taken.in_progress.get_or_init(|| peer.begin(self.bounds.is_stream));
        }
    }

    fn is_between(&self) -> bool {
        self.head_read == 0
    }

    /// Fails if what is under way takes too long.
    fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.bounds.is_stream && self.has_message && self.is_between() {
            return Poll::Pending;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(ARRIVES_WITHIN)));
        if timer.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.metrics.bounds.refused.late.inc();
        self.fail(Status::deadline_exceeded(format!(
            "message of {}: must arrive within {} s",
            self.bounds.method,
            ARRIVES_WITHIN.as_secs()
        )))
    }

    fn fail(&mut self, status: Status) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.has_ended = true;
        self.pieces.clear();
        Poll::Ready(Some(Err(Error::new(status))))
    }
}

/// Returns the error of a request for which there is no memory.
pub(super) fn exhausted() -> Status {
    Status::resource_exhausted("the memory for requests in progress is exhausted: try again later")
}

impl hyper::body::Body for Messages {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            if let Some(piece) = self.complete() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if self.has_ended {
                return Poll::Ready(None);
            }
            let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) else {
                return self.poll_late(context);
            };
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(piece))) => {
                    if let Err(status) = self.read(piece) {
                        return self.fail(status);
                    }
                }
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                // tonic reports a message that ends early.
                None => self.has_ended = true,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty() && self.inner.is_end_stream()
    }
}
