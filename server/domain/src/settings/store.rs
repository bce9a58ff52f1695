//! The connection to Redis.

use std::{fmt, path::PathBuf, time::Duration};

/// How to reach Redis.
#[derive(Clone)]
pub struct RedisOptions {
    /// `redis://` or `rediss://` URLs of one server, of one or more nodes of a cluster, or of sentinels.
    pub urls: Vec<String>,
    pub topology: Topology,
    /// Login at the servers, if the URLs contain none.
    pub credentials: Option<Credentials>,
    pub tls: TlsFiles,
    /// Prefix of every key.
    pub key_prefix: String,
    /// Maximum wait for the answer to a call for which a request waits.
    pub timeout: Duration,
    /// Maximum wait for a connection, and for the answer to other calls unless `timeout` is longer.
    pub connect_timeout: Duration,
}

/// How the servers of a store share its keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Topology {
    /// One server has all keys.
    #[default]
    Single,
    /// Nodes of a Redis Cluster, each with some slots.
    Cluster,
    /// Sentinels name the server that has all keys.
    Sentinel(Sentinel),
}

/// What sentinels know about the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentinel {
    /// The name under which the sentinels watch the primary.
    pub master_name: String,
    /// Login at the sentinels. [`RedisOptions::credentials`] are for the primary.
    pub credentials: Option<Credentials>,
    /// Whether the connections to the primary use TLS.
    pub primary_uses_tls: bool,
}

/// A user, and the file that contains the password. The sidecar reads the file for every connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub user: Option<String>,
    pub password_file: PathBuf,
}

/// Certificates for TLS. The sidecar reads the files for every connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authorities that sign servers' certificates. `None`: those that the system trusts.
    pub ca_file: Option<PathBuf>,
    /// The sidecar's own certificate and key.
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// The name that servers' certificates must contain, instead of the host to which the sidecar connects.
    pub server_name: Option<String>,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            topology: Topology::Single,
            credentials: None,
            tls: TlsFiles::default(),
            key_prefix: String::new(),
            timeout: Duration::from_millis(25),
            connect_timeout: Duration::from_secs(1),
        }
    }
}

impl fmt::Debug for RedisOptions {
    /// Leaves out the URLs, which may contain a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions")
            .field("urls", &format_args!("{} redacted", self.urls.len()))
            .field("topology", &self.topology)
            .field("credentials", &self.credentials)
            .field("tls", &self.tls)
            .field("key_prefix", &self.key_prefix)
            .field("timeout", &self.timeout)
            .field("connect_timeout", &self.connect_timeout)
            .finish()
    }
}
