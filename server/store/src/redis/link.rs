//! Connections to Redis or Redis Cluster, all from one deadpool.
//!
//! The request path holds one multiplexed connection, because each checkout from the pool costs a round trip. Each
//! other call (tables, recounts, lists of leases) checks out a connection of its own and has a longer timeout, so that
//! a large answer delays no request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use deadpool::managed::{self, Metrics as PoolMetrics, RecycleError, RecycleResult};
use evenkeel_domain::{StoreError, settings::RedisOptions};
use parking_lot::Mutex;
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, RedisError, Value, aio::ConnectionLike, cluster::ClusterClient,
    cluster_async::ClusterConnection,
};

/// Maximum number of open connections: the held connection, its successor while calls on the old connection end, and
/// the connections outside the request path.
const POOL_SIZE: usize = 8;
/// Maximum number of retries of a cluster call after a redirection or a lost node. Scripts are idempotent, so a retry
/// is safe.
const CLUSTER_RETRIES: u32 = 2;
/// Number of consecutive timeouts after which the sidecar closes the held connection. A lost packet or a fork of Redis
/// causes fewer timeouts.
const TIMEOUTS_MAX: u32 = 3;

/// The connection and timeout of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// A request waits for the call: the held connection and the short timeout.
    Request,
    /// No request waits: a connection from the pool and the long timeout.
    Beside,
}

/// The state of the server, judged by a call.
enum Standing {
    /// The server answered, and the connection works.
    Answered(Result<Value, RedisError>),
    /// The server answered that it cannot serve. Another connection may reach one that can.
    Unfit(RedisError),
    /// The server cannot be reached.
    Gone(RedisError),
    /// The server did not answer in time.
    Silent,
}

enum Pool {
    Single(deadpool_redis::Pool),
    Cluster(managed::Pool<ClusterManager>),
}

/// A connection checked out of the pool. Dropping it returns it, unless a call found it broken.
struct Checked {
    object: Option<Object>,
    broken: AtomicBool,
    timeouts: AtomicU32,
}

enum Object {
    Single(deadpool_redis::Connection),
    Cluster(managed::Object<ClusterManager>),
}

/// A connection that can be cloned and used by many calls at once.
enum Connection {
    Single(redis::aio::MultiplexedConnection),
    Cluster(ClusterConnection),
}

pub(crate) struct Link {
    pool: Pool,
    timeout: Duration,
    timeout_beside: Duration,
    held: Mutex<Option<Arc<Checked>>>,
    connecting: tokio::sync::Mutex<()>,
}

impl Link {
    /// Prepares the connections. Sends nothing before [`Self::connect`].
    pub(crate) fn new(options: &RedisOptions) -> Result<Self, RedisError> {
        let timeout_beside = options.connect_timeout.max(options.timeout);
        let timeouts = managed::Timeouts {
            wait: Some(timeout_beside),
            create: Some(options.connect_timeout),
            recycle: Some(timeout_beside),
        };
        let pool = if options.cluster {
            let client = ClusterClient::builder(options.urls.iter().map(String::as_str))
                .retries(CLUSTER_RETRIES)
                .min_retry_wait(5)
                .max_retry_wait(50)
                .connection_timeout(options.connect_timeout)
                .response_timeout(timeout_beside)
                .build()?;
            Pool::Cluster(build(ClusterManager { client }, timeouts)?)
        } else {
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(options.connect_timeout))
                .set_response_timeout(Some(timeout_beside));
            let url = options.urls.first().map_or("", String::as_str);
            let manager = deadpool_redis::Manager::new_with_config(url, config)?;
            Pool::Single(
                deadpool_redis::Pool::builder(manager)
                    .max_size(POOL_SIZE)
                    .timeouts(timeouts)
                    .runtime(deadpool_redis::Runtime::Tokio1)
                    .build()
                    .map_err(|e| client_error(&e.to_string()))?,
            )
        };
        let (timeout, held, connecting) = (options.timeout, Mutex::default(), Default::default());
        Ok(Self { pool, timeout, timeout_beside, held, connecting })
    }

    /// Sends one command and waits for its answer. The inner error is one that Redis answered.
    pub(crate) async fn query(&self, cmd: &Cmd, way: Way) -> Result<Result<Value, RedisError>, StoreError> {
        let (checked, timeout) = match way {
            Way::Request => {
                let held = self.held.lock().clone();
                let held = held.ok_or_else(|| StoreError::Unavailable("not connected".to_owned()))?;
                (held, self.timeout)
            }
            Way::Beside => (Arc::new(self.check_out().await?), self.timeout_beside),
        };
        match checked.send(cmd, timeout).await {
            Standing::Answered(answer) => {
                if checked.timeouts.load(Ordering::Relaxed) != 0 {
                    checked.timeouts.store(0, Ordering::Relaxed);
                }
                Ok(answer)
            }
            Standing::Unfit(error) | Standing::Gone(error) => {
                self.give_up(&checked);
                Err(StoreError::Unavailable(error.to_string()))
            }
            Standing::Silent => {
                let timeouts = checked.timeouts.fetch_add(1, Ordering::Relaxed) + 1;
                if way == Way::Request && timeouts >= TIMEOUTS_MAX {
                    self.give_up(&checked);
                    return Err(StoreError::Unavailable(format!("no answer to {timeouts} calls in a row")));
                }
                if way == Way::Beside {
                    self.give_up(&checked);
                }
                Err(StoreError::Timeout(timeout.as_millis() as u64))
            }
        }
    }

    /// Connects the request path unless it is already connected. Without a connection, calls on the request path fail
    /// at once, so that no request waits for an unreachable server.
    pub(crate) async fn connect(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.connecting.lock().await;
        if self.held.lock().is_some() {
            return Ok(());
        }
        let held = Arc::new(self.check_out().await?);
        *self.held.lock() = Some(held);
        Ok(())
    }

    async fn check_out(&self) -> Result<Checked, StoreError> {
        let object = match &self.pool {
            Pool::Single(pool) => Object::Single(pool.get().await.map_err(|e| not_connected(&e))?),
            Pool::Cluster(pool) => Object::Cluster(pool.get().await.map_err(|e| not_connected(&e))?),
        };
        Ok(Checked { object: Some(object), broken: AtomicBool::new(false), timeouts: AtomicU32::new(0) })
    }

    fn give_up(&self, broken: &Arc<Checked>) {
        broken.broken.store(true, Ordering::Relaxed);
        let mut held = self.held.lock();
        if held.as_ref().is_some_and(|held| Arc::ptr_eq(held, broken)) {
            *held = None;
        }
    }
}

impl Checked {
    async fn send(&self, cmd: &Cmd, timeout: Duration) -> Standing {
        let mut connection = match &self.object {
            Some(Object::Single(object)) => Connection::Single((**object).clone()),
            Some(Object::Cluster(object)) => Connection::Cluster((**object).clone()),
            None => return Standing::Gone(client_error("the connection was given up")),
        };
        let answer = tokio::time::timeout(timeout, async {
            match &mut connection {
                Connection::Single(c) => c.req_packed_command(cmd).await,
                Connection::Cluster(c) => c.req_packed_command(cmd).await,
            }
        });
        // The Redis client returns errors of a single server as values, and errors of a cluster as errors.
        match answer.await.map(|answer| answer.and_then(Value::extract_error)) {
            Ok(Ok(value)) => Standing::Answered(Ok(value)),
            Ok(Err(error)) => stand(error),
            Err(_elapsed) => Standing::Silent,
        }
    }
}

impl Drop for Checked {
    /// Removes a broken connection from the pool. The pool's own check (PING) succeeds on a server that no longer
    /// accepts writes.
    fn drop(&mut self) {
        let Some(object) = self.object.take() else { return };
        if self.broken.load(Ordering::Relaxed) {
            match object {
                Object::Single(object) => drop(deadpool_redis::Connection::take(object)),
                Object::Cluster(object) => drop(managed::Object::take(object)),
            }
        }
    }
}

/// Derives the state of the server from an error's kind and code.
fn stand(error: RedisError) -> Standing {
    const UNFIT: [&str; 10] = [
        "READONLY",
        "LOADING",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "MOVED",
        "ASK",
        "TRYAGAIN",
        "NOREPLICAS",
        "MISCONF",
        "OOM",
    ];
    match error.kind() {
        _ if error.is_timeout() => Standing::Silent,
        _ if error.code().is_some_and(|code| UNFIT.contains(&code)) => Standing::Unfit(error),
        ErrorKind::Server(_) | ErrorKind::Extension => Standing::Answered(Err(error)),
        _ => Standing::Gone(error),
    }
}

/// A timeout while waiting for a free slot in the pool does not mean that Redis is unavailable.
fn not_connected(error: &managed::PoolError<RedisError>) -> StoreError {
    match error {
        managed::PoolError::Timeout(managed::TimeoutType::Wait) => StoreError::Overloaded(POOL_SIZE),
        error => StoreError::Unavailable(error.to_string()),
    }
}

fn client_error(detail: &str) -> RedisError {
    RedisError::from((ErrorKind::InvalidClientConfig, "pool", detail.to_owned()))
}

fn build<M: managed::Manager>(
    manager: M,
    timeouts: managed::Timeouts,
) -> Result<managed::Pool<M>, RedisError> {
    managed::Pool::builder(manager)
        .max_size(POOL_SIZE)
        .timeouts(timeouts)
        .runtime(deadpool_redis::Runtime::Tokio1)
        .build()
        .map_err(|e| client_error(&e.to_string()))
}

/// Sets retries and timeouts of a cluster client, which deadpool-redis's manager leaves at their defaults.
struct ClusterManager {
    client: ClusterClient,
}

impl managed::Manager for ClusterManager {
    type Type = ClusterConnection;
    type Error = RedisError;

    async fn create(&self) -> Result<ClusterConnection, RedisError> {
        self.client.get_async_connection().await
    }

    async fn recycle(&self, c: &mut ClusterConnection, _: &PoolMetrics) -> RecycleResult<RedisError> {
        redis::cmd("PING").query_async::<String>(c).await.map(drop).map_err(RecycleError::Backend)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_judged_by_what_another_connection_could_change() {
        let server = |code: &'static str| redis::make_extension_error(code.to_owned(), None);
        for code in ["READONLY", "OOM", "MISCONF", "MASTERDOWN"] {
            assert!(matches!(stand(server(code)), Standing::Unfit(_)), "{code}");
        }
        for code in ["NOPERM", "WRONGTYPE", "ERR"] {
            assert!(matches!(stand(server(code)), Standing::Answered(Err(_))), "{code}");
        }
        let io = RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        assert!(matches!(stand(io), Standing::Gone(_)));
    }
}
