//! The connection to Redis.

use std::{fmt, time::Duration};

/// How to reach Redis.
#[derive(Clone)]
pub struct RedisOptions {
    /// `redis://` or `rediss://` URLs of one server, or of one or more nodes of a cluster.
    pub urls: Vec<String>,
    /// Whether the URLs are nodes of a Redis Cluster.
    pub cluster: bool,
    /// Prefix of every key.
    pub key_prefix: String,
    /// Maximum wait for the answer to a call for which a request waits.
    pub timeout: Duration,
    /// Maximum wait for a connection, and for the answer to other calls unless `timeout` is longer.
    pub connect_timeout: Duration,
}

impl fmt::Debug for RedisOptions {
    /// Leaves out the URLs, which may contain a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions")
            .field("urls", &format_args!("{} redacted", self.urls.len()))
            .field("cluster", &self.cluster)
            .field("key_prefix", &self.key_prefix)
            .field("timeout", &self.timeout)
            .field("connect_timeout", &self.connect_timeout)
            .finish()
    }
}
