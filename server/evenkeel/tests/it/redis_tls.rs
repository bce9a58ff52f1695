//! TLS to Redis, and the rotation of certificates and passwords while the sidecar runs.

use std::{path::Path, time::Duration};

use evenkeel_proto::v1::{Basis, admit_response::Answer};

use crate::support::{eventually, free_port, redis::Redis, sentinel, sidecar::Sidecar, tls::Authority};

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
        let (directory, port) = (tempfile::tempdir().unwrap(), free_port());
        let path = |file: &str| directory.path().join(file).to_str().unwrap().to_owned();
        authority.sign(&[name]).write(directory.path(), "server");
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
    let (_process, _, log) = crate::support::process::Process::start(yaml, directory.path()).await;
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

    std::fs::write(redis.path("other.pem"), &Authority::new().pem).unwrap();
    let other = format!("ca_file: '{}'", redis.path("other.pem"));
    let error = store_error(&(redis.store(&other) + POOL)).await;
    assert!(error.contains("store.tls.ca_file"), "{error}");

    let named = TlsRedis::start(&authority, "redis.example", "no");
    let error = store_error(&(named.store(&named.ca()) + POOL)).await;
    assert!(error.contains("store.tls.server_name"), "{error}");
    let s = Sidecar::start(&(named.store(&(named.ca() + ", server_name: redis.example")) + POOL)).await;
    until_shared(&s).await;
}

#[tokio::test]
async fn the_sidecar_shows_its_own_certificate() {
    let authority = Authority::new();
    let redis = TlsRedis::start(&authority, "127.0.0.1", "yes");
    let error = store_error(&(redis.store(&redis.ca()) + POOL)).await;
    assert!(error.contains("store.tls.cert_file"), "{error}");
    authority.sign(&["sidecar"]).write(redis.directory.path(), "client");
    let own = format!(
        "{}, cert_file: '{}', key_file: '{}'",
        redis.ca(),
        redis.path("client.crt"),
        redis.path("client.key")
    );
    let s = Sidecar::start(&(redis.store(&own) + POOL)).await;
    until_shared(&s).await;
}

/// Server, authority and client certificates change while requests arrive. No request fails, and new connections use the
/// new files.
#[tokio::test]
async fn certificates_rotate_without_a_restart() {
    let (old, new) = (Authority::new(), Authority::new());
    let redis = TlsRedis::start(&old, "127.0.0.1", "no");
    let s = Sidecar::start(&(redis.store(&redis.ca()) + POOL)).await;
    until_shared(&s).await;
    new.sign(&["127.0.0.1"]).write(redis.directory.path(), "server");
    std::fs::write(redis.path("ca.pem"), &new.pem).unwrap();
    redis.redis.command(&["CONFIG", "SET", "tls-cert-file", &redis.path("server.crt")]);
    for lease in 1000..1100 {
        assert!(is_shared(&s, lease).await, "open connections stay");
    }
    redis.redis.command(&["CLIENT", "KILL", "USER", "evenkeel"]);
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
