//! Bounds of gRPC requests: a layer around all services.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use axum::{
    Error,
    body::{Body, Bytes},
    extract::{Request, State},
    middleware::{self, Next},
    response::Response,
};
use evenkeel_telemetry::Metrics;
use hyper::body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Status, service::Routes};

use super::messages::{Bounds, Messages, Taken, exhausted};
use crate::transport::{connections::Peer, memory::MemoryBudget};

/// Maximum size of a message, in bytes, apart from messages with lists of leases. An Admit with 1024 candidates, or with
/// all headers that a gateway accepts, is smaller.
pub(super) const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Maximum size of a message that may contain a list of leases, in bytes: 262,144 leases, or 30,000 with tickets.
pub(super) const LIST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Memory of a request apart from its headers and messages, roughly.
const REQUEST_BYTES: usize = 2048;
/// Memory of a header apart from its name and value, as HTTP/2 counts it.
const HEADER_BYTES: usize = 32;
/// Maximum number of health watches and reflection streams. They need no identity, take any time, and nobody needs many.
const WATCHES_MAX: usize = 64;

/// Maximum number of responses to operators that have not been read yet. The longest, 10,000 rows of usage, takes 2 MiB.
const RESPONSES_MAX: usize = 64;

/// Services whose streams count towards [`WATCHES_MAX`].
const WATCHED: &str = "/grpc.";
/// Services whose responses to unary calls count towards [`RESPONSES_MAX`].
const OPERATORS: [&str; 2] = ["/evenkeel.v1.Inspect/", "/evenkeel.v1.Admin/"];

struct Shared {
    memory: Arc<MemoryBudget>,
    metrics: Arc<Metrics>,
    watches: Arc<Semaphore>,
    responses: Arc<Semaphore>,
}

/// Adds the bounds to services.
pub(super) fn bound(routes: Routes, memory: Arc<MemoryBudget>, metrics: Arc<Metrics>) -> Routes {
    let watches = Arc::new(Semaphore::new(WATCHES_MAX));
    let responses = Arc::new(Semaphore::new(RESPONSES_MAX));
    let shared = Arc::new(Shared { memory, metrics, watches, responses });
    routes.into_axum_router().layer(middleware::from_fn_with_state(shared, check)).into()
}

/// Returns the bounds of a method.
fn bounds(path: &str) -> Bounds {
    let unary = |method, bytes_max, counted| Bounds { method, bytes_max, is_stream: false, counted };
    let stream = |method, bytes_max, counted| Bounds { method, bytes_max, is_stream: true, counted };
    match path {
        // Fields: `admit`, `leases`, and there `subject`.
        "/evenkeel.v1.Gateway/Connect" => stream("Connect", LIST_BYTES_MAX, &[&[6, 7], &[5]]),
        "/evenkeel.v1.Gateway/KeepAlive" => unary("KeepAlive", LIST_BYTES_MAX, &[]),
        // Field: `subject`.
        "/evenkeel.v1.Gateway/Admit" => unary("Admit", MESSAGE_BYTES_MAX, &[&[5]]),
        "/evenkeel.v1.Gateway/Settle" => unary("Settle", MESSAGE_BYTES_MAX, &[]),
        // Field: `descriptors`.
        "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit" => {
            unary("ShouldRateLimit", MESSAGE_BYTES_MAX, &[&[2]])
        }
        "/evenkeel.v1.Inspect/Watch" | "/evenkeel.v1.Inspect/WatchPools" => {
            stream("a watch", MESSAGE_BYTES_MAX, &[])
        }
        "/grpc.health.v1.Health/Watch" => stream("a health watch", MESSAGE_BYTES_MAX, &[]),
        path if path.ends_with("/ServerReflectionInfo") => stream("reflection", MESSAGE_BYTES_MAX, &[]),
        _ => unary("this call", MESSAGE_BYTES_MAX, &[]),
    }
}

async fn check(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let bounds = bounds(path);
    let is_of_operator = !bounds.is_stream && OPERATORS.iter().any(|service| path.starts_with(service));
    let (request, mut held) = match shared.enter(request, bounds) {
        Ok(entered) => entered,
        Err(status) => return status.into_http(),
    };
    let response = next.run(request).await;
    if is_of_operator {
        let Ok(place) = Arc::clone(&shared.responses).try_acquire_owned() else {
            shared.metrics.bounds.refused.memory.inc();
            let unread = format!("{RESPONSES_MAX} responses have not been read yet: try again later");
            return Status::resource_exhausted(unread).into_http();
        };
        held.place = Some(place);
    }
    response.map(|inner| Body::new(Held { inner, _held: held }))
}

/// What a request holds until its response has ended.
struct Holds {
    _taken: Arc<Taken>,
    /// A place among the watches, or among the responses to operators.
    place: Option<OwnedSemaphorePermit>,
}

impl Shared {
    /// Checks a request by its head, before its body arrives.
    fn enter(&self, request: Request, bounds: Bounds) -> Result<(Request, Holds), Status> {
        let path = request.uri().path();
        let watch = match bounds.is_stream && path.starts_with(WATCHED) {
            true => Some(Arc::clone(&self.watches).try_acquire_owned().map_err(|_| {
                Status::resource_exhausted(format!("health and reflection: at most {WATCHES_MAX} streams"))
            })?),
            false => None,
        };
        let taken = Taken { charge: self.memory.charge(), in_progress: OnceLock::new() };
        let headers = request.headers().iter();
        let headers: usize =
            headers.map(|(name, value)| name.as_str().len() + value.len() + HEADER_BYTES).sum();
        if !taken.charge.add(REQUEST_BYTES + path.len() + headers, 0) {
            self.metrics.bounds.refused.memory.inc();
            return Err(exhausted());
        }
        let peer = Peer::of(request.extensions()).cloned();
        let taken = Arc::new(taken);
        let metrics = Arc::clone(&self.metrics);
        let messages = |inner| Messages::new(inner, bounds, metrics, peer, Arc::clone(&taken));
        let request = request.map(|inner| Body::new(messages(inner)));
        Ok((request, Holds { _taken: taken, place: watch }))
    }
}

/// The body of a response, together with what its request holds.
struct Held {
    inner: Body,
    _held: Holds,
}

impl hyper::body::Body for Held {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
