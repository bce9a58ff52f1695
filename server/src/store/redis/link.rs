//! The connection to Redis or Redis Cluster. One multiplexed connection, taken from the deadpool and held,
//! carries the calls of the request path: checking a connection out of the pool costs a round trip of
//! its own. A held connection that breaks is dropped; the probe of the
//! circuit breaker makes the next one.

use std::{sync::Arc, time::Duration};

use deadpool::managed::{self, Metrics as PoolMetrics, RecycleError, RecycleResult};
use parking_lot::Mutex;
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, RedisError, Value, aio::ConnectionLike, cluster::ClusterClient,
    cluster_async::ClusterConnection,
};

use super::RedisOptions;
use crate::store::StoreError;

/// Most connections open at once: the held one, and its successor while the old one drains.
const POOL_SIZE: usize = 4;
/// Times a cluster call is sent again after a redirection or a lost node. Scripts are idempotent.
const CLUSTER_RETRIES: u32 = 2;

/// A connection that can be cloned and used by many calls at once.
#[derive(Clone)]
enum Connection {
    Single(redis::aio::MultiplexedConnection),
    Cluster(ClusterConnection),
}

enum Pool {
    Single(deadpool_redis::Pool),
    Cluster(managed::Pool<ClusterManager>),
}

/// A supervised connection.
pub(crate) struct Link {
    pool: Pool,
    timeout: Duration,
    held: Mutex<Option<Arc<Held>>>,
    connecting: tokio::sync::Mutex<()>,
}

struct Held {
    connection: Connection,
    // Returned to the pool, or discarded by it on its next check, when the last call is done.
    _object: Box<dyn Send + Sync>,
}

impl Link {
    /// Prepares the connection; nothing is sent until the first call.
    pub(crate) fn new(options: &RedisOptions) -> Result<Self, RedisError> {
        let timeouts = managed::Timeouts {
            wait: Some(options.timeout),
            create: Some(options.connect_timeout),
            recycle: Some(options.timeout),
        };
        let pool = if options.cluster {
            let client = ClusterClient::builder(options.urls.iter().map(String::as_str))
                .retries(CLUSTER_RETRIES)
                .min_retry_wait(5)
                .max_retry_wait(50)
                .connection_timeout(options.connect_timeout)
                .response_timeout(options.timeout)
                .build()?;
            Pool::Cluster(build(ClusterManager { client }, timeouts)?)
        } else {
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(options.connect_timeout))
                .set_response_timeout(Some(options.timeout));
            let url = options.urls.first().map_or("", String::as_str);
            let manager = deadpool_redis::Manager::new_with_config(url, config)?;
            let pool = deadpool_redis::Pool::builder(manager)
                .max_size(POOL_SIZE)
                .timeouts(timeouts)
                .runtime(deadpool_redis::Runtime::Tokio1)
                .build()
                .map_err(|e| client_error(&e.to_string()))?;
            Pool::Single(pool)
        };
        Ok(Self { pool, timeout: options.timeout, held: Mutex::default(), connecting: Default::default() })
    }

    /// Sends one command and waits for its answer, within the configured timeout.
    pub(crate) async fn query(&self, cmd: &Cmd) -> Result<Result<Value, RedisError>, StoreError> {
        let held = self.held.lock().clone();
        let held = held.ok_or_else(|| StoreError::Unavailable("not connected".to_owned()))?;
        let mut connection = held.connection.clone();
        let answer = tokio::time::timeout(self.timeout, async {
            match &mut connection {
                Connection::Single(c) => c.req_packed_command(cmd).await,
                Connection::Cluster(c) => c.req_packed_command(cmd).await,
            }
        });
        match answer.await {
            // Redis answers errors as values in some modes; make them one kind.
            Ok(Ok(value)) => Ok(value.extract_error()),
            Ok(Err(error)) if is_answer(&error) => Ok(Err(error)),
            Ok(Err(error)) => {
                self.discard(&held);
                Err(if error.is_timeout() {
                    StoreError::Timeout(self.timeout.as_millis() as u64)
                } else {
                    StoreError::Unavailable(error.to_string())
                })
            }
            Err(_elapsed) => {
                self.discard(&held);
                Err(StoreError::Timeout(self.timeout.as_millis() as u64))
            }
        }
    }

    /// Connects unless connected. Only this waits for a connection: a call made without one fails at once, so
    /// that nobody in the request path waits for a server that is not there.
    pub(crate) async fn connect(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.connecting.lock().await;
        if self.held.lock().is_some() {
            return Ok(());
        }
        let unavailable = |e: &dyn std::fmt::Display| StoreError::Unavailable(e.to_string());
        let held = Arc::new(match &self.pool {
            Pool::Single(pool) => {
                let object = pool.get().await.map_err(|e| unavailable(&e))?;
                Held { connection: Connection::Single((*object).clone()), _object: Box::new(object) }
            }
            Pool::Cluster(pool) => {
                let object = pool.get().await.map_err(|e| unavailable(&e))?;
                Held { connection: Connection::Cluster((*object).clone()), _object: Box::new(object) }
            }
        });
        *self.held.lock() = Some(held);
        Ok(())
    }

    fn discard(&self, broken: &Arc<Held>) {
        let mut held = self.held.lock();
        if held.as_ref().is_some_and(|h| Arc::ptr_eq(h, broken)) {
            *held = None;
        }
    }
}

/// Whether Redis itself answered, so that the connection is sound.
fn is_answer(error: &RedisError) -> bool {
    match error.kind() {
        // Loading, read-only and the like: this server cannot serve now; look for another connection.
        ErrorKind::Server(_) => {
            !matches!(error.code(), Some("LOADING" | "READONLY" | "MASTERDOWN" | "CLUSTERDOWN"))
        }
        ErrorKind::Extension => true,
        _ => false,
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

/// deadpool-redis's own manager leaves retries and timeouts of a cluster client at their defaults.
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
