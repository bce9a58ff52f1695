//! How to connect to one server of Redis: address, login and TLS. The sidecar reads the files of the password and of the
//! certificates again for every connection, so that both can be rotated without a restart.

use std::{fmt, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use evenkeel_domain::settings::{Credentials, TlsFiles};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ErrorKind, IntoConnectionInfo as _,
    RedisConnectionInfo, RedisError, TlsCertificates, Value, aio::MultiplexedConnection,
    io::AsyncDNSResolver,
};

/// Host and port of a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Address {
    pub(super) host: Arc<str>,
    pub(super) port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// What servers of one kind (nodes of the store, or sentinels) require of a connection.
#[derive(Clone)]
pub(super) struct Access {
    /// Login and database, from the URL.
    login: RedisConnectionInfo,
    credentials: Option<Credentials>,
    uses_tls: bool,
    tls: TlsFiles,
    connect_timeout: Duration,
    response_timeout: Duration,
    /// Whether the server must be a primary. After a failover, Sentinel may still name the old one for a moment.
    must_be_primary: bool,
}

impl Access {
    /// Reads a URL. Returns the address in it, and what a connection requires.
    pub(super) fn parse(
        url: &str,
        credentials: Option<Credentials>,
        tls: TlsFiles,
        connect_timeout: Duration,
        response_timeout: Duration,
    ) -> Result<(Address, Self), RedisError> {
        let info = url.into_connection_info()?;
        let (host, port, uses_tls) = match info.addr() {
            ConnectionAddr::Tcp(host, port) => (host, *port, false),
            ConnectionAddr::TcpTls { host, port, .. } => (host, *port, true),
            _ => return Err(invalid("the URL has no host")),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let address = Address { host: host.into(), port };
        // The name of the client library is of no use here, and would need a permission.
        let login = info.redis_settings().clone().set_skip_set_lib_name();
        let must_be_primary = false;
        Ok((
            address,
            Self { login, credentials, uses_tls, tls, connect_timeout, response_timeout, must_be_primary },
        ))
    }

    /// Returns what the primary requires whose sentinels this describes.
    pub(super) fn for_primary(self, credentials: Option<Credentials>, uses_tls: bool) -> Self {
        let login = RedisConnectionInfo::default().set_skip_set_lib_name();
        Self { login, credentials, uses_tls, must_be_primary: true, ..self }
    }

    /// Connects, and logs in. The error names the server.
    pub(super) async fn connect(&self, address: &Address) -> Result<MultiplexedConnection, ConnectError> {
        let failed = |cause: RedisError| ConnectError { address: address.clone(), cause };
        let connected = tokio::time::timeout(self.connect_timeout, self.try_connect(address)).await;
        match connected {
            Ok(connected) => connected.map_err(failed),
            Err(_) => Err(failed(std::io::Error::from(std::io::ErrorKind::TimedOut).into())),
        }
    }

    async fn try_connect(&self, address: &Address) -> Result<MultiplexedConnection, RedisError> {
        let this = self.clone();
        let to = address.clone();
        let client = tokio::task::spawn_blocking(move || this.client(&to)).await;
        let client = client.map_err(|error| invalid(&error.to_string()))??;
        let mut config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(Some(self.response_timeout));
        if self.tls.server_name.is_some() {
            config = config.set_dns_resolver(Resolver(address.clone()));
        }
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        if self.must_be_primary {
            let role: Vec<Value> = redis::cmd("ROLE").query_async(&mut connection).await?;
            match role.into_iter().next().map(redis::from_redis_value::<String>) {
                Some(Ok(role)) if role == "master" => {}
                _ => return Err(invalid("is a replica, not a primary")),
            }
        }
        Ok(connection)
    }

    /// Builds the client for one connection from the current contents of the files. Blocks on the file system.
    fn client(&self, address: &Address) -> Result<Client, RedisError> {
        let mut login = self.login.clone();
        if let Some(Credentials { user, password_file }) = &self.credentials {
            if let Some(user) = user {
                login = login.set_username(user);
            }
            let password = read("store.password_file", password_file)?;
            let password = String::from_utf8(password).map_err(|_| invalid("the password is not UTF-8"))?;
            login = login.set_password(password.trim_end_matches(['\r', '\n']));
        }
        // The TLS client checks the name that it connects to. With a server name of its own, the resolver returns the
        // server's address for that name.
        let host = self.tls.server_name.as_deref().filter(|_| self.uses_tls).unwrap_or(&address.host);
        let (host, port) = (host.to_owned(), address.port);
        let to = match self.uses_tls {
            true => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
            false => ConnectionAddr::Tcp(host, port),
        };
        let info = to.into_connection_info()?.set_redis_settings(login);
        if !self.uses_tls {
            return Client::open(info);
        }
        let TlsFiles { ca_file, cert_file, key_file, .. } = &self.tls;
        let root_cert = ca_file.as_deref().map(|file| read("store.tls.ca_file", file)).transpose()?;
        let client_tls = match (cert_file, key_file) {
            (Some(cert), Some(key)) => Some(ClientTlsConfig {
                client_cert: read("store.tls.cert_file", cert)?,
                client_key: read("store.tls.key_file", key)?,
            }),
            _ => None,
        };
        Client::build_with_tls(info, TlsCertificates { client_tls, root_cert })
    }
}

fn read(field: &str, file: &Path) -> Result<Vec<u8>, RedisError> {
    std::fs::read(file).map_err(|error| invalid(&format!("{field}: {}: {error}", file.display())))
}

fn invalid(detail: &str) -> RedisError {
    RedisError::from((ErrorKind::InvalidClientConfig, "not connected", detail.to_owned()))
}

/// Why a connection failed.
#[derive(Debug)]
pub(super) struct ConnectError {
    address: Address,
    cause: RedisError,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.address, self.reason())
    }
}

impl ConnectError {
    /// Returns the error without the server's address.
    pub(super) fn reason(&self) -> String {
        let Self { cause, .. } = self;
        let own = cause.detail().filter(|_| cause.kind() == ErrorKind::InvalidClientConfig);
        let detail = own.map_or_else(|| cause.to_string(), str::to_owned);
        // The texts of rustls name the fault, but not the setting that mends it.
        let hints = [
            (
                "UnknownIssuer",
                "store.tls.ca_file must contain the authority that signed the server's certificate",
            ),
            (
                "BadSignature",
                "store.tls.ca_file must contain the authority that signed the server's certificate",
            ),
            (
                "certificate expired",
                "the server's certificate must be renewed, or this machine's clock is wrong",
            ),
            (
                "not valid yet",
                "the server's certificate is for a later time, or this machine's clock is wrong",
            ),
            ("not valid for name", "store.tls.server_name must be a name in the server's certificate"),
            ("CertificateRequired", "the server requires store.tls.cert_file and store.tls.key_file"),
            ("UnknownCA", "the server does not know the authority that signed store.tls.cert_file"),
            ("CertificateExpired", "the server rejects store.tls.cert_file, which has expired"),
            (
                "BadCertificate",
                "the server rejects store.tls.cert_file, whose dates, key usage or signature may be wrong",
            ),
            ("InvalidContentType", "the server does not use TLS on this port"),
        ];
        match hints.iter().find(|(text, _)| detail.contains(text)) {
            Some((_, hint)) => format!("{detail} ({hint})"),
            None => detail,
        }
    }
}

/// Resolves every name to the address of one server.
struct Resolver(Address);

impl AsyncDNSResolver for Resolver {
    fn resolve<'a, 'b: 'a>(
        &'a self,
        _host: &'b str,
        _port: u16,
    ) -> redis::RedisFuture<'a, Box<dyn Iterator<Item = SocketAddr> + Send + 'a>> {
        Box::pin(async {
            let found = tokio::net::lookup_host((&*self.0.host, self.0.port)).await?;
            Ok(Box::new(found.collect::<Vec<_>>().into_iter()) as Box<dyn Iterator<Item = SocketAddr> + Send>)
        })
    }
}
