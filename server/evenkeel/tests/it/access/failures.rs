//! Tests connections that fail: both sides say why, and the sidecar counts them.

use std::{path::Path, process::Stdio, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{CERTIFICATES, GATEWAY, TLS, https, write};
use crate::support::{
    command::{PROGRAM, evenkeel},
    eventually,
    process::Process,
    tls::{Authority, Pair},
};

/// A sidecar in a process of its own, with its log, and files for clients.
struct Fixture {
    directory: tempfile::TempDir,
    authority: Authority,
    _process: Process,
    ready: Value,
}

impl Fixture {
    /// Starts it with more fields of the section `listen`.
    async fn start(tls: &str, listen: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let yaml = format!("{tls}{CERTIFICATES}log: {{format: json}}\n");
        write(directory.path(), &authority, &yaml);
        let path = |name: &str| directory.path().join(name);
        let yaml = std::fs::read_to_string(path("evenkeel.yaml")).unwrap();
        let yaml = yaml.replacen("listen: {", &format!("listen: {{{listen}"), 1);
        std::fs::write(path("evenkeel.yaml"), yaml).unwrap();
        let log = std::fs::File::create(path("log")).unwrap();
        let ready_file = [Path::new("--ready-file"), &path("ready")];
        let process = Process::serve(&path("evenkeel.yaml"), &ready_file, Stdio::from(log));
        let ready = eventually(Duration::from_secs(20), "serving", || async {
            std::fs::read(path("ready")).map_err(|error| error.to_string())
        })
        .await;
        let ready = serde_json::from_slice(&ready).unwrap();
        Self { directory, authority, _process: process, ready }
    }

    fn grpc(&self) -> &str {
        self.ready["grpc"].as_str().unwrap()
    }

    /// Runs `evenkeel pools` with a client certificate. Returns the exit code and the error.
    async fn pools(&self, url: &str, client: Option<&Pair>, more: &[&str]) -> (i32, String) {
        let at = |name: &str| self.directory.path().join(name).to_str().unwrap().to_owned();
        let mut words = vec!["pools".to_owned(), "--ca-file".to_owned(), at("ca.crt")];
        if let Some(client) = client {
            client.write(self.directory.path(), "client");
            words.extend([
                "--cert-file".to_owned(),
                at("client.crt"),
                "--key-file".to_owned(),
                at("client.key"),
            ]);
        }
        words.extend(more.iter().map(|word| (*word).to_owned()));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = evenkeel(url, None, &words).await;
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    /// Returns the fields of the log's lines with this message from the client's address.
    fn lines(&self, message: &str) -> Vec<Value> {
        let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let fields = lines.map(|line| line["fields"].clone());
        fields.filter(|fields| fields["message"] == message && fields["address"] == "127.0.0.1").collect()
    }

    /// Waits for a line of the log about a failed handshake at a listener whose reason contains a text.
    async fn logged_at(&self, listener: &str, reason: &str) {
        eventually(Duration::from_secs(10), reason, || async {
            let lines = self.lines("TLS handshake failed");
            let has_reason = |line: &Value| line["reason"].as_str().unwrap().contains(reason);
            let found = lines.iter().any(|line| line["listener"] == listener && has_reason(line));
            if found { Ok(()) } else { Err(format!("{lines:?}")) }
        })
        .await;
    }

    async fn logged(&self, reason: &str) {
        self.logged_at("grpc", reason).await;
    }

    /// Reads `/metrics` over TLS, as a reader.
    async fn handshakes(&self, result: &str) -> u64 {
        self.handshakes_at("grpc", result).await
    }

    async fn handshakes_at(&self, listener: &str, result: &str) -> u64 {
        let address = self.ready["http"].as_str().unwrap();
        let client = self.authority.sign(&["reader.example"]);
        let request = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let text = https(address, &self.authority, Some(&client), request).await;
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
        let name = format!("evenkeel_tls_handshakes_total{{listener=\"{listener}\",result=\"{result}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }
}

#[tokio::test]
async fn both_sides_say_why_a_connection_fails() {
    let required = TLS.replace("ca.crt}", "ca.crt, client_certificates: required}");
    let fixture = Fixture::start(&required, "").await;
    let (own, foreign) = (&fixture.authority, Authority::new());
    let url = format!("https://{}", fixture.grpc());
    let reader = own.sign(&["reader.example"]);
    let (code, error) = fixture.pools(&url, Some(&reader), &[]).await;
    assert_eq!((code, error.as_str()), (0, ""));

    // The client's certificate.
    let cases = [
        (
            Some(foreign.sign(&["reader.example"])),
            "UnknownCA",
            "no authority in tls.client_ca_file",
            "unknown_issuer",
        ),
        (
            Some(own.sign_expired(&["reader.example"])),
            "CertificateExpired",
            "certificate has expired",
            "expired",
        ),
        (
            Some(own.sign_for_later(&["reader.example"])),
            "CertificateExpired",
            "certificate is not valid yet",
            "not_yet_valid",
        ),
        (None, "requires a client certificate", "the client shows no certificate", "no_certificate"),
    ];
    for (client, at_client, at_sidecar, result) in cases {
        let (code, error) = fixture.pools(&url, client.as_ref(), &[]).await;
        assert!(code == 5 && error.contains(at_client), "{code}: {error}");
        fixture.logged(at_sidecar).await;
        assert_eq!(fixture.handshakes(result).await, 1);
        // The HTTP listener requires no certificate: probes have none. A wrong one fails all the same.
        let Some(client) = client else { continue };
        let http = fixture.ready["http"].as_str().unwrap();
        let request = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
        assert_eq!(https(http, own, Some(&client), request).await, "", "{result}");
        fixture.logged_at("http", at_sidecar).await;
        assert_eq!(fixture.handshakes_at("http", result).await, 1);
    }
    // A valid certificate with a name that no list has. The handshake succeeds.
    let (code, error) = fixture.pools(&url, Some(&own.sign(&[GATEWAY])), &[]).await;
    assert!(code == 4 && error.contains("reader.certificates lists no name"), "{code}: {error}");
    let rejected = fixture.lines("call rejected");
    assert_eq!(rejected.len(), 1, "{rejected:?}");
    let error = rejected[0]["error"].as_str().unwrap();
    assert!(error.contains("reader.certificates lists no name") && error.contains(GATEWAY), "{error}");

    // The sidecar's certificate.
    std::fs::write(fixture.directory.path().join("foreign.crt"), &foreign.pem).unwrap();
    let path = fixture.directory.path().join("foreign.crt");
    let words = ["pools", "--ca-file", path.to_str().unwrap()];
    let output = evenkeel(&url, None, &words).await;
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(5) && error.contains("see --ca-file"), "{error}");
    fixture.logged("the client rejects the sidecar's certificate: UnknownCA").await;
    let (code, error) = fixture.pools(&url, Some(&reader), &["--server-name", "other.example"]).await;
    assert!(code == 5 && error.contains("other.example") && error.contains("see --server-name"), "{error}");
    // Within a second, the sidecar logs only the first rejection. It counts both.
    eventually(Duration::from_secs(10), "counted", || async {
        let count = fixture.handshakes("peer_rejected").await;
        if count == 2 { Ok(()) } else { Err(count.to_string()) }
    })
    .await;

    // No TLS where TLS is expected.
    let plain = format!("http://{}", fixture.grpc());
    let (code, error) = fixture.pools(&plain, None, &[]).await;
    assert!(code == 5 && error.contains("the sidecar speaks TLS there; use https://"), "{code}: {error}");
    fixture.logged("the client does not speak TLS").await;
    let mut stream = TcpStream::connect(fixture.grpc()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("use https://\n"), "{answer}");
    assert_eq!(fixture.handshakes("plain_text").await, 2);
}

/// The sidecar serves an expired certificate rather than none, and warns.
#[tokio::test]
async fn both_sides_say_that_the_sidecars_certificate_has_expired() {
    let fixture = Fixture::start(TLS, "").await;
    let url = format!("https://{}", fixture.grpc());
    let reader = fixture.authority.sign(&["reader.example"]);
    fixture.authority.sign_expired(&["127.0.0.1"]).write(fixture.directory.path(), "server");
    let error = eventually(Duration::from_secs(20), "the expired certificate", || async {
        let (code, error) = fixture.pools(&url, Some(&reader), &[]).await;
        if code == 5 { Ok(error) } else { Err(format!("{code}: {error}")) }
    })
    .await;
    let expected = "the sidecar's certificate is not valid: invalid peer certificate: certificate expired";
    assert!(error.contains(expected), "{error}");
    fixture.logged("the client rejects the sidecar's certificate: CertificateExpired").await;
}

/// A client that tries again and again does not fill the log. Every attempt is counted.
#[tokio::test]
async fn failed_handshakes_are_logged_once_a_second() {
    const ATTEMPTS: u64 = 60;
    let fixture = Fixture::start(TLS, "").await;
    let expired = fixture.authority.sign_expired(&["reader.example"]);
    let start = std::time::Instant::now();
    for _ in 0..ATTEMPTS {
        assert_eq!(https(fixture.grpc(), &fixture.authority, Some(&expired), "x").await, "");
    }
    eventually(Duration::from_secs(10), "counted", || async {
        let count = fixture.handshakes("expired").await;
        if count == ATTEMPTS { Ok(()) } else { Err(count.to_string()) }
    })
    .await;
    let lines = fixture.lines("TLS handshake failed").len() as u64;
    // The first second may have begun shortly before.
    assert!((1..=start.elapsed().as_secs() + 2).contains(&lines), "{lines}");
}

#[tokio::test]
async fn a_sidecar_without_tls_is_named() {
    let sidecar = crate::support::sidecar::Sidecar::start("").await;
    let url = format!("https://{}", sidecar.addresses.grpc.as_ref().unwrap());
    let output = evenkeel(&url, None, &["pools"]).await;
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(5) && error.contains("use http://"), "{error}");
}

/// TLS 1.2 is refused where 1.3 is the minimum.
#[tokio::test]
async fn the_minimum_version_is_enforced() {
    let fixture = Fixture::start(&TLS.replace("ca.crt}", "ca.crt, min_version: '1.3'}"), "").await;
    let provider = rustls::crypto::ring::default_provider();
    let config = rustls::ClientConfig::builder_with_provider(provider.into());
    let config = config.with_protocol_versions(&[&rustls::version::TLS12]).unwrap();
    let config = config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let stream = TcpStream::connect(fixture.grpc()).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("x.example").unwrap();
    let error = connector.connect(name, stream).await.unwrap_err().to_string();
    assert!(error.contains("ProtocolVersion"), "{error}");
    assert_eq!(fixture.handshakes("incompatible").await, 1);
}

/// Clients that say nothing must not keep others out.
#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let fixture = Fixture::start(TLS, "connections_max: 64, ").await;
    let mut silent = Vec::new();
    for _ in 0..600 {
        silent.push(TcpStream::connect(fixture.grpc()).await.unwrap());
    }
    let reader = fixture.authority.sign(&["reader.example"]);
    let (code, error) = fixture.pools(&format!("https://{}", fixture.grpc()), Some(&reader), &[]).await;
    assert_eq!(code, 0, "{error}");
    // They make room for others, and the sidecar closes the last after its time for handshakes.
    let mut last = silent.pop().unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(20), last.read(&mut [0])).await;
    assert!(matches!(closed, Ok(Ok(0) | Err(_))), "{closed:?}");
    eventually(Duration::from_secs(10), "counted", || async {
        let count = fixture.handshakes("timed_out").await;
        if count == 600 { Ok(()) } else { Err(count.to_string()) }
    })
    .await;
}

#[test]
fn check_config_names_the_field_and_the_file() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), &Authority::new(), TLS);
    Authority::new().sign(&["127.0.0.1"]).write(directory.path(), "other");
    let yaml = directory.path().join("evenkeel.yaml");
    std::fs::write(&yaml, TLS.replace("server.key", "other.key")).unwrap();
    for command in [&["check-config"][..], &["serve", "--config"]] {
        let output = std::process::Command::new(PROGRAM).args(command).arg(&yaml).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{error}");
        assert!(
            error.contains("tls.key_file: must be the key of the certificate in")
                && error.contains("other.key"),
            "{error}"
        );
    }
}
