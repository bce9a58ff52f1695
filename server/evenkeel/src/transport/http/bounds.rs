//! Bounds of HTTP requests and their responses.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    Error,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderName, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use evenkeel_api::{ApiError, Code};
use hyper::body::{Body as _, Frame, SizeHint};

use super::reply::{Failure, Shared};
use crate::transport::{
    connections::{InProgress, Peer},
    memory::{Charge, SMALL_MAX},
};

/// Headers that each response gets unless it sets them itself. Answers contain what only their reader may see, and their
/// type is what it says.
const HEADERS: [(HeaderName, HeaderValue); 2] = [
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
];

/// Maximum size of a piece of a response, in bytes. hyper takes the next piece when it has sent some of those before,
/// so what it holds itself is small.
const PIECE: usize = 16 * 1024;

/// Registers a request with its connection, and charges its response, until the client has read it.
pub(super) async fn bound(State(http): Shared, request: Request, next: Next) -> Response {
    let in_progress = Peer::of(request.extensions()).map(|peer| peer.begin(true));
    let mut response = next.run(request).await;
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(value);
    }
    let bytes = response.body().size_hint().exact().unwrap_or_default() as usize;
    let charge = http.memory.charge();
    if bytes > SMALL_MAX && !charge.add(bytes, bytes) {
        http.metrics.bounds.refused.memory.inc();
        let message = "the memory for responses is exhausted: try again later".to_owned();
        return Failure::from(ApiError { code: Code::Unavailable, field: None, message }).into_response();
    }
    response.map(|inner| {
        Body::new(Held { inner, piece: Bytes::new(), _charge: charge, _in_progress: in_progress })
    })
}

/// The body of a response, together with what it holds until it has been sent.
struct Held {
    inner: Body,
    /// The rest of what `inner` has returned.
    piece: Bytes,
    _charge: Charge,
    _in_progress: Option<InProgress>,
}

impl hyper::body::Body for Held {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.piece.is_empty() {
            match Pin::new(&mut self.inner).poll_frame(context).map_ok(Frame::into_data) {
                Poll::Ready(Some(Ok(Ok(bytes)))) => self.piece = bytes,
                Poll::Ready(Some(Ok(Err(trailers)))) => return Poll::Ready(Some(Ok(trailers))),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
        let length = self.piece.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.piece.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.piece.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, piece) = (self.inner.size_hint(), self.piece.len() as u64);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + piece);
        }
        hint.set_lower(hint.lower() + piece);
        hint
    }
}
