//! The connections to one server: one that the request path holds, and a pool for all other calls.
//!
//! The pool checks no connection before it gives it out, as deadpool-redis's own manager does with UNWATCH and PING,
//! because a check costs a round trip. Instead, a verdict that the server is lost drops all connections at once.
//! Otherwise each would fail again, one call after another.

use std::{
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};

use deadpool::managed::{self, Metrics, PoolError, QueueMode, RecycleError, RecycleResult};
use deadpool_redis::{Runtime, Timeouts};
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use tokio_util::sync::CancellationToken;

use super::access::{Access, Address, ConnectError};

/// Maximum number of connections outside the request path. Each serves one call at a time, so that a large answer
/// delays no other call.
pub(super) const CONNECTIONS_MAX: usize = 8;
/// An unused connection is closed after this time. Firewalls forget connections that are idle for longer, and a call
/// over such a connection would get no answer.
const IDLE_MAX: Duration = Duration::from_secs(30);

pub(super) struct Connections {
    server: Arc<Server>,
    pool: managed::Pool<Opener>,
    held: Mutex<Option<Arc<Held>>>,
}

struct Server {
    address: Address,
    access: Arc<Access>,
    current: Mutex<Generation>,
}

/// The connections between two times when all of them were dropped. One of an earlier generation is not used again.
#[derive(Clone, Default)]
struct Generation {
    number: u64,
    /// Cancelled when all connections of the generation are dropped.
    dropped: CancellationToken,
}

/// The connection of the request path.
pub(super) struct Held {
    pub(super) connection: MultiplexedConnection,
    pub(super) generation: u64,
    /// Number of timeouts in a row.
    pub(super) timeouts: AtomicU32,
}

/// Opens the pool's connections.
struct Opener(Arc<Server>);

struct Pooled {
    connection: MultiplexedConnection,
    generation: Generation,
}

/// A connection for one call outside the request path. Dropping it returns it to the pool.
pub(super) struct CheckedOut(managed::Object<Opener>);

/// Why a call got no connection.
pub(super) enum NoConnection {
    /// All connections were in use for as long as a call may wait.
    Busy,
    Failed(ConnectError),
}

impl managed::Manager for Opener {
    type Type = Pooled;
    type Error = ConnectError;

    async fn create(&self) -> Result<Pooled, ConnectError> {
        let generation = self.0.current.lock().clone();
        let connection = self.0.access.connect(&self.0.address).await?;
        Ok(Pooled { connection, generation })
    }

    async fn recycle(&self, pooled: &mut Pooled, _: &Metrics) -> RecycleResult<ConnectError> {
        match pooled.generation.dropped.is_cancelled() {
            true => Err(RecycleError::message("the server was lost since")),
            false => Ok(()),
        }
    }
}

impl Connections {
    pub(super) fn new(address: Address, access: Arc<Access>) -> Self {
        let server = Arc::new(Server { address, access, current: Mutex::default() });
        // `build` fails only without a runtime.
        #[allow(clippy::expect_used)]
        let pool = managed::Pool::builder(Opener(Arc::clone(&server)))
            .max_size(CONNECTIONS_MAX)
            .queue_mode(QueueMode::Lifo)
            .runtime(Runtime::Tokio1)
            .build()
            .expect("a pool with a runtime");
        Self { server, pool, held: Mutex::default() }
    }

    pub(super) fn address(&self) -> &Address {
        &self.server.address
    }

    /// Opens a connection that belongs to nobody yet.
    pub(super) async fn connect(&self) -> Result<MultiplexedConnection, ConnectError> {
        self.server.access.connect(&self.server.address).await
    }

    pub(super) fn held(&self) -> Option<Arc<Held>> {
        self.held.lock().clone()
    }

    pub(super) fn hold(&self, connection: MultiplexedConnection) {
        let held = Held { connection, generation: self.generation(), timeouts: AtomicU32::new(0) };
        *self.held.lock() = Some(Arc::new(held));
    }

    pub(super) fn generation(&self) -> u64 {
        self.server.current.lock().number
    }

    /// Returns the idle connection that was used last, or opens one. While [`CONNECTIONS_MAX`] calls are in progress,
    /// waits for at most `limit`.
    pub(super) async fn check_out(&self, limit: Duration) -> Result<CheckedOut, NoConnection> {
        self.pool.retain(|_, metrics| metrics.last_used() < IDLE_MAX);
        let timeouts = Timeouts { wait: Some(limit), ..Timeouts::new() };
        match self.pool.timeout_get(&timeouts).await {
            Ok(object) => Ok(CheckedOut(object)),
            Err(PoolError::Backend(error)) => Err(NoConnection::Failed(error)),
            Err(_) => Err(NoConnection::Busy),
        }
    }

    /// Opens a connection in place of one that the server has closed. It may have closed the other idle ones too.
    pub(super) async fn replace(
        &self,
        closed: CheckedOut,
        limit: Duration,
    ) -> Result<CheckedOut, NoConnection> {
        closed.close();
        self.drop_idle();
        self.check_out(limit).await
    }

    /// Closes the idle connections, for example because one of their kind got no answer.
    pub(super) fn drop_idle(&self) {
        self.pool.retain(|_, _| false);
    }

    /// Closes all connections if this generation is still current. Returns false if they have been closed already.
    pub(super) fn drop_all(&self, generation: u64) -> bool {
        let before = {
            let mut current = self.server.current.lock();
            if generation != current.number {
                return false;
            }
            let next = Generation { number: generation + 1, ..Generation::default() };
            std::mem::replace(&mut *current, next)
        };
        before.dropped.cancel();
        *self.held.lock() = None;
        self.drop_idle();
        true
    }
}

impl CheckedOut {
    pub(super) fn connection(&self) -> MultiplexedConnection {
        self.0.connection.clone()
    }

    pub(super) fn generation(&self) -> u64 {
        self.0.generation.number
    }

    /// Whether an earlier call used the connection. The server may have closed it since.
    pub(super) fn is_reused(&self) -> bool {
        managed::Object::metrics(&self.0).recycle_count > 0
    }

    /// Waits until the connection is given up during the call.
    pub(super) async fn dropped(&self) {
        self.0.generation.dropped.cancelled().await;
    }

    /// Closes the connection instead of returning it to the pool.
    pub(super) fn close(self) {
        drop(managed::Object::take(self.0));
    }
}
