//! The connections to one server: one that the request path holds, and a bounded number for all other calls.
//!
//! The sidecar checks no connection before it uses it, because a check costs a round trip. Instead, a verdict that the
//! server is lost drops all connections at once. Otherwise each would fail again, one call after another.

use std::{sync::Arc, time::Duration};

use evenkeel_domain::StoreError;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::access::{Access, Address, ConnectError};

/// Maximum number of connections outside the request path. Each serves one call at a time, so that a large answer delays
/// no other call.
pub(super) const CONNECTIONS_MAX: usize = 8;
/// An unused connection is closed after this time. Firewalls forget connections that are idle for longer, and a call over
/// such a connection would get no answer.
const IDLE_MAX: Duration = Duration::from_secs(30);

pub(super) struct Connections {
    pub(super) address: Address,
    access: Arc<Access>,
    permits: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Number of times that all connections were dropped. A connection of an earlier generation is not used again.
    generation: u64,
    /// Cancelled when all connections of the generation are dropped.
    dropped: CancellationToken,
    held: Option<Arc<Held>>,
    /// Unused connections, the last used at the end.
    idle: Vec<(MultiplexedConnection, Instant)>,
}

/// The connection of the request path.
pub(super) struct Held {
    pub(super) connection: MultiplexedConnection,
    pub(super) generation: u64,
    /// Number of timeouts in a row.
    pub(super) timeouts: std::sync::atomic::AtomicU32,
}

/// A connection for one call outside the request path.
pub(super) struct CheckedOut {
    pub(super) connection: MultiplexedConnection,
    pub(super) generation: u64,
    /// Cancelled when the connection is given up during the call.
    pub(super) dropped: CancellationToken,
    /// Whether an earlier call used the connection. The server may have closed it since.
    pub(super) is_reused: bool,
    _permit: OwnedSemaphorePermit,
}

impl Connections {
    pub(super) fn new(address: Address, access: Arc<Access>) -> Self {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Self { address, access, permits, state: Mutex::default() }
    }

    /// Opens a connection that belongs to nobody yet.
    pub(super) async fn connect(&self) -> Result<MultiplexedConnection, ConnectError> {
        self.access.connect(&self.address).await
    }

    pub(super) fn held(&self) -> Option<Arc<Held>> {
        self.state.lock().held.clone()
    }

    pub(super) fn hold(&self, connection: MultiplexedConnection) {
        let mut state = self.state.lock();
        let (generation, timeouts) = (state.generation, Default::default());
        state.held = Some(Arc::new(Held { connection, generation, timeouts }));
    }

    pub(super) fn generation(&self) -> u64 {
        self.state.lock().generation
    }

    /// Waits until fewer than [`CONNECTIONS_MAX`] calls are in progress.
    pub(super) async fn permit(&self, limit: Duration) -> Result<OwnedSemaphorePermit, StoreError> {
        match tokio::time::timeout(limit, Arc::clone(&self.permits).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(StoreError::Overloaded(CONNECTIONS_MAX)),
        }
    }

    /// Returns an idle connection, or opens one.
    pub(super) async fn check_out(&self, permit: OwnedSemaphorePermit) -> Result<CheckedOut, ConnectError> {
        let (generation, dropped, idle) = {
            let mut state = self.state.lock();
            state.idle.retain(|(_, used)| used.elapsed() < IDLE_MAX);
            (state.generation, state.dropped.clone(), state.idle.pop())
        };
        let is_reused = idle.is_some();
        let connection = match idle {
            Some((connection, _)) => connection,
            None => self.connect().await?,
        };
        Ok(CheckedOut { connection, generation, dropped, is_reused, _permit: permit })
    }

    /// Opens a connection in place of one that the server has closed.
    pub(super) async fn replace(&self, closed: CheckedOut) -> Result<CheckedOut, ConnectError> {
        let CheckedOut { _permit, .. } = closed;
        let (generation, dropped) = {
            let state = self.state.lock();
            (state.generation, state.dropped.clone())
        };
        let connection = self.connect().await?;
        Ok(CheckedOut { connection, generation, dropped, is_reused: false, _permit })
    }

    /// Keeps a connection for another call.
    pub(super) fn give_back(&self, checked_out: CheckedOut) {
        let mut state = self.state.lock();
        if checked_out.generation == state.generation {
            state.idle.push((checked_out.connection, Instant::now()));
        }
    }

    /// Closes the idle connections, for example because one of their kind got no answer.
    pub(super) fn drop_idle(&self) {
        self.state.lock().idle.clear();
    }

    /// Closes all connections if this generation is still current. Returns false if they have been closed already.
    pub(super) fn drop_all(&self, generation: u64) -> bool {
        let mut state = self.state.lock();
        if generation != state.generation {
            return false;
        }
        let before = std::mem::take(&mut *state);
        state.generation = generation + 1;
        before.dropped.cancel();
        true
    }
}
