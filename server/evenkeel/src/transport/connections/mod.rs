//! Bounds of connections, whatever they carry. A [`Gate`] counts the connections of one listener, closes those that hold
//! a place without using it, and makes room for others when all places are taken.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use evenkeel_domain::settings::Roles;
use futures::task::AtomicWaker;
use parking_lot::Mutex;

mod files;
mod gate;
mod listener;
mod socket;

pub use files::{Places, places};
pub use gate::{Gate, Gates};
pub use listener::Listener;
pub use socket::Socket;

/// How long the connections of a listener may wait.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    /// Time from the connection to the end of its TLS handshake.
    pub handshake: Duration,
    /// Time from the connection to the head of its first request. It includes the handshake.
    pub first_request: Duration,
    /// Time between two requests. `None`: another mechanism notices that the client is gone.
    pub idle: Option<Duration>,
    /// Time that a request and its response may take. `None`: no bound but that of a client that stops reading.
    pub request: Option<Duration>,
    /// If all places are taken by requests in progress of one client, whether that client's new connections replace its
    /// oldest. Otherwise they are refused.
    pub replaces_own: bool,
}

/// The client of a connection. Requests carry it as an extension.
#[derive(Clone)]
pub struct Peer {
    connection: Arc<Connection>,
    roles: Roles,
    /// Names of the verified client certificate.
    certificate: Option<Arc<[String]>>,
}

impl Peer {
    /// Returns the client of a request. Returns `None` if the request came through no [`Gate`].
    pub fn of(extensions: &axum::http::Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// Returns the client's address; `None` for a Unix socket.
    pub fn address(&self) -> Option<IpAddr> {
        self.connection.address
    }

    /// Returns the roles of everybody who can connect to the listener.
    pub fn roles(&self) -> Roles {
        self.roles
    }

    /// Returns the names of the verified client certificate; `None` without a certificate.
    pub fn certificate(&self) -> Option<&[String]> {
        self.certificate.as_deref()
    }

    /// Adds the names of the client certificate.
    pub(crate) fn with_certificate(self, names: Option<Vec<String>>) -> Self {
        Self { certificate: names.map(Into::into), ..self }
    }

    /// Registers that a handshake begins. Until it ends, the connection has less time.
    pub(crate) fn begin_handshake(&self) {
        self.connection.in_handshake.store(true, Ordering::Relaxed);
    }

    pub(crate) fn end_handshake(&self) {
        self.connection.in_handshake.store(false, Ordering::Relaxed);
    }

    /// Returns whether the gate has closed the connection.
    pub(crate) fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// Registers a request, until the result is dropped. A request that is `long_lived` may take any time.
    pub fn begin(&self, long_lived: bool) -> InProgress {
        let number = self.connection.begin(long_lived);
        InProgress { connection: Arc::clone(&self.connection), number }
    }
}

/// A request of a connection, until it is dropped.
pub struct InProgress {
    connection: Arc<Connection>,
    /// `None`: a request that may take any time.
    number: Option<u64>,
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.connection.end(self.number);
    }
}

/// Why a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    NoRequest,
    Idle,
    Request,
    Stalled,
    Replaced,
}

/// The state of one connection.
pub(crate) struct Connection {
    address: Option<IpAddr>,
    opened: Instant,
    activity: Mutex<Activity>,
    /// When the bytes that wait to be sent began to wait, in ms since `opened`, plus 1. 0: none wait.
    stalled: AtomicU64,
    in_handshake: AtomicBool,
    closed: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

struct Activity {
    /// When the last request ended; `None` before the first.
    last_request: Option<Instant>,
    /// Numbers and beginnings of the requests in progress whose time is bounded, oldest first.
    bounded: Vec<(u64, Instant)>,
    /// Number of other requests in progress.
    long_lived: usize,
    next: u64,
}

impl Connection {
    fn new(address: Option<IpAddr>) -> Self {
        let activity = Activity { last_request: None, bounded: Vec::new(), long_lived: 0, next: 0 };
        Self {
            address,
            opened: Instant::now(),
            activity: Mutex::new(activity),
            stalled: AtomicU64::new(0),
            in_handshake: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
        }
    }

    fn begin(&self, long_lived: bool) -> Option<u64> {
        let mut activity = self.activity.lock();
        if long_lived {
            activity.long_lived += 1;
            return None;
        }
        activity.next += 1;
        let number = activity.next;
        activity.bounded.push((number, Instant::now()));
        Some(number)
    }

    fn end(&self, number: Option<u64>) {
        let mut activity = self.activity.lock();
        match number {
            None => activity.long_lived -= 1,
            Some(number) => activity.bounded.retain(|(other, _)| *other != number),
        }
        activity.last_request = Some(Instant::now());
    }

    /// Returns why the connection must close, if it must.
    fn overdue(&self, waits: &Waits, stall_max: Duration) -> Option<Closed> {
        let stalled = self.stalled.load(Ordering::Relaxed);
        let elapsed = self.opened.elapsed();
        if stalled > 0 && elapsed.saturating_sub(Duration::from_millis(stalled - 1)) > stall_max {
            return Some(Closed::Stalled);
        }
        if self.in_handshake.load(Ordering::Relaxed) {
            return (elapsed > waits.handshake).then_some(Closed::NoRequest);
        }
        let activity = self.activity.lock();
        if let (Some((_, since)), Some(max)) = (activity.bounded.first(), waits.request)
            && since.elapsed() > max
        {
            return Some(Closed::Request);
        }
        if !activity.bounded.is_empty() || activity.long_lived > 0 {
            return None;
        }
        match (activity.last_request, waits.idle) {
            (None, _) => (elapsed > waits.first_request).then_some(Closed::NoRequest),
            (Some(last), Some(max)) => (last.elapsed() > max).then_some(Closed::Idle),
            (Some(_), None) => None,
        }
    }

    /// Returns how much it costs to close this connection: whether a request is in progress, whether there ever was one,
    /// and since when that is so. Smaller is cheaper.
    fn worth(&self) -> (bool, bool, Instant) {
        let activity = self.activity.lock();
        let is_busy = !activity.bounded.is_empty() || activity.long_lived > 0;
        let since = if is_busy { None } else { activity.last_request };
        (is_busy, activity.last_request.is_some(), since.unwrap_or(self.opened))
    }

    /// Makes the next operation on the socket fail.
    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.reader.wake();
        self.writer.wake();
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn stalls(&self) {
        let now = self.opened.elapsed().as_millis() as u64 + 1;
        let _ = self.stalled.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn flows(&self) {
        if self.stalled.load(Ordering::Relaxed) != 0 {
            self.stalled.store(0, Ordering::Relaxed);
        }
    }
}
