//! TLS to Redis, and the rotation of certificates and passwords while the sidecar runs.

use std::{path::Path, time::Duration};

use evenkeel_proto::v1::{Basis, admit_response::Answer};

use crate::support::{
    eventually, free_port, http,
    process::Process,
    redis::Redis,
    sentinel,
    sidecar::Sidecar,
    tls::{Authority, Pair},
};

const LIMIT: Duration = Duration::from_secs(20);
const POOL: &str = "keep_alive_interval: 1s\npools: [{cluster: llm, endpoints: [{address: a}]}]";

/// A Redis with a TLS port beside the plain one, which only the test uses.
struct TlsRedis {
    redis: Redis,
    port: u16,
    directory: tempfile::TempDir,
}

impl TlsRedis {
    /// Starts a server whose certificate is valid for `name`. `auth_clients` is Redis's `tls-auth-clients`.
    fn start(authority: &Authority, name: &str, auth_clients: &str) -> Self {
        Self::start_with(authority, &authority.sign(&[name]), auth_clients)
    }

    /// Starts a server with this certificate.
    fn start_with(authority: &Authority, certificate: &Pair, auth_clients: &str) -> Self {
        let (directory, port) = (tempfile::tempdir().unwrap(), free_port());
        let path = |file: &str| directory.path().join(file).to_str().unwrap().to_owned();
        certificate.write(directory.path(), "server");
        std::fs::write(path("ca.pem"), &authority.pem).unwrap();
        let redis = Redis::start_with(&[
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &path("server.crt"),
            "--tls-key-file",
            &path("server.key"),
            "--tls-ca-cert-file",
            &path("ca.pem"),
            "--tls-auth-clients",
            auth_clients,
        ]);
        std::fs::write(path("password"), "evenkeel").unwrap();
        Self { redis, port, directory }
    }

    fn path(&self, file: &str) -> String {
        self.directory.path().join(file).to_str().unwrap().to_owned()
    }

    /// Returns the section `store`, with these fields of `tls`.
    fn store(&self, tls: &str) -> String {
        let (port, password) = (self.port, self.path("password"));
        format!(
            "store: {{type: redis, url: 'rediss://127.0.0.1:{port}', user: evenkeel, password_file: '{password}', \
             timeout: 2s, tls: {{{tls}}}}}\n"
        )
    }

    fn ca(&self) -> String {
        format!("ca_file: '{}'", self.path("ca.pem"))
    }

    /// Returns the fields of `tls` for a sidecar that shows this certificate.
    fn shown(&self, certificate: &Pair) -> String {
        certificate.write(self.directory.path(), "client");
        let (cert, key) = (self.path("client.crt"), self.path("client.key"));
        format!("{}, cert_file: '{cert}', key_file: '{key}'", self.ca())
    }

    /// Gives the server another certificate for new connections.
    fn present(&self, certificate: &Pair) {
        certificate.write(self.directory.path(), "server");
        self.redis.command(&["CONFIG", "SET", "tls-cert-file", &self.path("server.crt")]);
    }

    /// Ends the sidecar's connections.
    fn disconnect(&self) {
        self.redis.command(&["CLIENT", "KILL", "USER", "evenkeel"]);
    }

    /// Returns the number of connections that the server has accepted so far.
    fn accepted(&self) -> u64 {
        let info: String = redis::from_redis_value(self.redis.command(&["INFO", "stats"])).unwrap();
        let count = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        count.unwrap().trim().parse().unwrap()
    }
}

/// Certificates that a server at 127.0.0.1 must not have, and what the sidecar's log says about each.
fn wrong_certificates(authority: &Authority) -> [(Pair, &'static str); 4] {
    let name = &["127.0.0.1"];
    [
        (
            Authority::new().sign(name),
            "store.tls.ca_file must contain the authority that signed the server's",
        ),
        (
            authority.sign(&["redis.example"]),
            "store.tls.server_name must be a name in the server's certificate",
        ),
        (authority.sign_expired(name), "the server's certificate must be renewed"),
        (authority.sign_for_later(name), "the server's certificate is for a later time"),
    ]
}

async fn is_shared(s: &Sidecar, lease: u64) -> bool {
    let Answer::Admitted(admitted) = s.admit("llm", "g", lease).await else { panic!("denied") };
    admitted.basis() == Basis::Shared
}

async fn until_shared(s: &Sidecar) {
    let mut lease = 0;
    eventually(LIMIT, "the store decides", || {
        lease += 1;
        async move { if is_shared(s, lease).await { Ok(()) } else { Err("local".to_owned()) } }
    })
    .await;
}

/// Starts a sidecar as a process, and returns the error with which it cannot reach the store.
async fn store_error(yaml: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let (_process, _, log) = Process::start(yaml, directory.path()).await;
    eventually(LIMIT, "an error of the store", || async {
        let log = std::fs::read_to_string(&log).unwrap();
        log.lines().find(|line| line.contains("store down")).map(str::to_owned).ok_or(log)
    })
    .await
}

#[tokio::test]
async fn a_server_is_verified_by_its_authority_and_name() {
    let authority = Authority::new();
    let redis = TlsRedis::start(&authority, "127.0.0.1", "no");
    let s = Sidecar::start(&(redis.store(&redis.ca()) + POOL)).await;
    until_shared(&s).await;

    for (certificate, expected) in wrong_certificates(&authority) {
        let redis = TlsRedis::start_with(&authority, &certificate, "no");
        let error = store_error(&(redis.store(&redis.ca()) + POOL)).await;
        let server = format!("127.0.0.1:{}", redis.port);
        assert!(error.contains(expected) && error.contains(&server), "{error}");
    }

    let named = TlsRedis::start(&authority, "redis.example", "no");
    let s = Sidecar::start(&(named.store(&(named.ca() + ", server_name: redis.example")) + POOL)).await;
    until_shared(&s).await;
}

#[tokio::test]
async fn the_sidecar_shows_its_own_certificate() {
    let authority = Authority::new();
    let redis = TlsRedis::start(&authority, "127.0.0.1", "yes");
    let error = store_error(&(redis.store(&redis.ca()) + POOL)).await;
    assert!(error.contains("store.tls.cert_file"), "{error}");
    let wrong = [
        (Authority::new().sign(&["sidecar"]), "does not know the authority that signed store.tls.cert_file"),
        (authority.sign_expired(&["sidecar"]), "the server rejects store.tls.cert_file, which has expired"),
        (authority.sign_for_later(&["sidecar"]), "the server rejects store.tls.cert_file"),
    ];
    for (certificate, expected) in wrong {
        let error = store_error(&(redis.store(&redis.shown(&certificate)) + POOL)).await;
        assert!(error.contains(expected), "{error}");
    }
    let own = redis.shown(&authority.sign(&["sidecar"]));
    let s = Sidecar::start(&(redis.store(&own) + POOL)).await;
    until_shared(&s).await;
}

/// The server's certificate becomes wrong while the sidecar runs. Open connections stay. A new one fails, and the log says
/// why, although the outage began with the end of a connection, and says so once, although the sidecar tries again and
/// again. Once the certificate is right, the sidecar uses the store again.
#[tokio::test]
async fn a_certificate_that_becomes_wrong_is_named_on_the_next_connection() {
    let authority = Authority::new();
    let redis = TlsRedis::start(&authority, "127.0.0.1", "no");
    let directory = tempfile::tempdir().unwrap();
    let yaml =
        format!("listen: {{grpc: '127.0.0.1:0', http: '127.0.0.1:0'}}\n{}{POOL}", redis.store(&redis.ca()));
    std::fs::write(directory.path().join("evenkeel.yaml"), yaml).unwrap();
    let (_process, ready) = Process::start_limited(directory.path(), None).await;
    let address = ready["http"].as_str().unwrap();
    let until = |store_up: bool| async move {
        let expected = (200, format!("{{\"ready\":true,\"store_up\":{store_up}}}"));
        eventually(LIMIT, "readiness", || async {
            let found = http::get(address, "/readyz").await;
            if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    };
    let lines = |text: &str| {
        let log = std::fs::read_to_string(directory.path().join("log")).unwrap();
        // Others that read records from the store repeat its error.
        let of_the_connection = log.lines().filter(|line| line.contains("evenkeel_store::redis::node"));
        of_the_connection.filter(|line| line.contains(text)).map(str::to_owned).collect::<Vec<_>>()
    };
    until(true).await;
    for (certificate, expected) in wrong_certificates(&authority) {
        redis.present(&certificate);
        let (losses, accepted) = (lines("store down").len(), redis.accepted());
        until(true).await;
        redis.disconnect();
        eventually(LIMIT, "several attempts", || async {
            let more = redis.accepted() - accepted;
            if more > 20 { Ok(()) } else { Err(more.to_string()) }
        })
        .await;
        until(false).await;
        let reasons = lines(expected);
        assert_eq!(reasons.len(), 1, "{reasons:?}");
        assert!(reasons[0].contains("WARN") && reasons[0].contains(&redis.port.to_string()), "{reasons:?}");
        assert_eq!(lines("store down").len(), losses + 1);
        redis.present(&authority.sign(&["127.0.0.1"]));
        until(true).await;
    }
}

/// Server, authority and client certificates change while requests arrive. No request fails, and new connections use the
/// new files.
#[tokio::test]
async fn certificates_rotate_without_a_restart() {
    let (old, new) = (Authority::new(), Authority::new());
    let redis = TlsRedis::start(&old, "127.0.0.1", "no");
    let s = Sidecar::start(&(redis.store(&redis.ca()) + POOL)).await;
    until_shared(&s).await;
    std::fs::write(redis.path("ca.pem"), &new.pem).unwrap();
    redis.present(&new.sign(&["127.0.0.1"]));
    for lease in 1000..1100 {
        assert!(is_shared(&s, lease).await, "open connections stay");
    }
    redis.disconnect();
    until_shared(&s).await;
}

#[tokio::test]
async fn a_password_rotates_without_a_restart() {
    let redis = Redis::start();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "evenkeel").unwrap();
    let store = format!(
        "store: {{type: redis, url: 'redis://127.0.0.1:{}', user: evenkeel, password_file: '{}', timeout: 2s}}\n",
        redis.port,
        file.display()
    );
    let s = Sidecar::start(&(store + POOL)).await;
    until_shared(&s).await;
    // Redis accepts both passwords until all sidecars have the new one.
    redis.command(&["ACL", "SETUSER", "evenkeel", ">second"]);
    std::fs::write(&file, "second\n").unwrap();
    redis.command(&["ACL", "SETUSER", "evenkeel", "<evenkeel"]);
    redis.command(&["CLIENT", "KILL", "USER", "evenkeel"]);
    until_shared(&s).await;
}

#[tokio::test]
async fn a_primary_behind_sentinels_uses_tls() {
    let authority = Authority::new();
    let redis = TlsRedis::start(&authority, "redis.example", "no");
    let directory: &Path = redis.directory.path();
    let more = format!(
        "tls-replication yes\ntls-auth-clients no\ntls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {}",
        redis.path("server.crt"),
        redis.path("server.key"),
        redis.path("ca.pem")
    );
    let (mut child, port) = sentinel::spawn(directory, 0, redis.port, &more);
    let store = format!(
        "store: {{type: sentinel, sentinels: ['redis://127.0.0.1:{port}'], master_name: {}, user: evenkeel, \
         password_file: '{}', timeout: 2s, tls: {{{}, server_name: redis.example}}}}\n",
        sentinel::NAME,
        redis.path("password"),
        redis.ca()
    );
    let s = Sidecar::start(&(store + POOL)).await;
    until_shared(&s).await;
    child.kill().unwrap();
    child.wait().unwrap();
}
