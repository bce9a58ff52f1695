//! The section `store.tls`: certificates for the connections to Redis.

use evenkeel_domain::settings::TlsFiles;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Files, check::Check};

/// Certificates for TLS. A relative path is resolved against the configuration file's directory. The sidecar reads the
/// files whenever it opens a connection, so that certificates can be replaced without a restart.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawStoreTls {
    /// PEM file with the certificates of the authorities that sign the servers' certificates.
    #[schemars(extend("x-default" = "the authorities that the system trusts"))]
    ca_file: Option<String>,
    /// PEM file with the sidecar's own certificate, and its chain. Requires `key_file`.
    #[schemars(extend("x-default" = "none"))]
    cert_file: Option<String>,
    /// PEM file with the private key of `cert_file`.
    #[schemars(extend("x-default" = "none"))]
    key_file: Option<String>,
    /// The name that the certificate of every server must contain, for example if the URL or the sentinels name servers
    /// by IP address.
    #[schemars(extend("x-default" = "the host to which the sidecar connects"))]
    server_name: Option<String>,
}

pub(super) fn validate(check: &mut Check, files: &mut Files, raw: RawStoreTls) -> TlsFiles {
    let mut file = |field: &str, kind: &str, path: Option<String>| {
        let path = path?;
        let field = format!("store.tls.{field}");
        let text = files.read(check, &field, &path);
        if text.is_some_and(|text| !text.contains(&format!("{kind}-----"))) {
            let expected = format!("a PEM file with a {}", kind.to_lowercase());
            check.fault(&field, &expected, format!("{path:?}"));
        }
        Some(files.resolve(&path))
    };
    let ca_file = file("ca_file", "CERTIFICATE", raw.ca_file);
    let cert_file = file("cert_file", "CERTIFICATE", raw.cert_file);
    let key_file = file("key_file", "PRIVATE KEY", raw.key_file);
    match (&cert_file, &key_file) {
        (Some(_), None) => check.required("store.tls.key_file", "given if store.tls.cert_file is given"),
        (None, Some(_)) => check.required("store.tls.cert_file", "given if store.tls.key_file is given"),
        _ => {}
    }
    let server_name = raw.server_name;
    if server_name.as_deref().is_some_and(|name| !is_server_name(name)) {
        check.fault("store.tls.server_name", "a DNS name or an IP address", format!("{server_name:?}"));
    }
    TlsFiles { ca_file, cert_file, key_file, server_name }
}

fn is_server_name(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    name.parse::<std::net::IpAddr>().is_ok() || (name.len() <= 253 && name.split('.').all(is_label))
}

#[cfg(test)]
mod tests {
    use crate::{Config, StoreConfig};

    fn load(store: &str) -> Result<Config, Vec<String>> {
        let directory = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("cert.pem", "-----BEGIN CERTIFICATE-----\n"),
            ("key.pem", "-----BEGIN PRIVATE KEY-----\n"),
            ("password", "secret\n"),
        ] {
            std::fs::write(directory.path().join(file), text).unwrap();
        }
        let path = directory.path().join("evenkeel.yaml");
        std::fs::write(&path, format!("store: {store}")).unwrap();
        Config::load(&path).map_err(|faults| faults.0)
    }

    #[test]
    fn certificates_are_found_beside_the_configuration() {
        let files = "ca_file: cert.pem, cert_file: cert.pem, key_file: key.pem, server_name: redis.example";
        let config = load(&format!("{{type: redis, url: 'rediss://a', tls: {{{files}}}}}")).unwrap();
        let StoreConfig::Redis(options) = &config.store else { panic!() };
        assert!(options.tls.key_file.as_ref().unwrap().ends_with("key.pem"));
        assert_eq!(options.tls.server_name.as_deref(), Some("redis.example"));
        // A changed certificate is seen without a restart, so the sidecar watches no more than the configuration.
        assert_eq!(config.files.len(), 2);
    }

    #[test]
    fn faults_name_the_field_and_the_file() {
        for (store, fault) in [
            (
                "{type: redis, url: 'redis://a', tls: {}}",
                "store.url: must be a rediss:// URL if store.tls is given, got a redis:// URL",
            ),
            (
                "{type: redis, url: 'rediss://a', tls: {cert_file: cert.pem}}",
                "store.tls.key_file: must be given if store.tls.cert_file is given, got none",
            ),
            (
                "{type: redis, url: 'rediss://a', tls: {ca_file: key.pem}}",
                "store.tls.ca_file: must be a PEM file with a certificate, got \"key.pem\"",
            ),
            (
                "{type: redis, url: 'rediss://a', tls: {server_name: 'a b'}}",
                "store.tls.server_name: must be a DNS name or an IP address, got Some(\"a b\")",
            ),
            ("{tls: {}}", "store.type: must be redis if store.tls is given, got memory"),
            (
                "{type: redis, url: 'unix:///tmp/redis'}",
                "store.url: must be a redis:// or rediss:// URL, got something else",
            ),
            (
                "{type: sentinel, sentinels: ['redis://a:26379']}",
                "store.master_name: must be a name of 1..256 bytes without control characters, got \"\"",
            ),
            (
                "{type: sentinel, master_name: m}",
                "store.sentinels: must be the URLs of the sentinels, got none",
            ),
            (
                "{type: sentinel, sentinels: ['redis://a'], master_name: m, url: 'redis://a'}",
                "store.type: must be redis if store.url is given, got sentinel",
            ),
            (
                "{type: redis, url: 'redis://a', master_name: m}",
                "store.type: must be sentinel if store.master_name is given, got redis",
            ),
            (
                "{type: sentinel, sentinels: ['redis://:p@a'], master_name: m, sentinel_password_file: password}",
                "store.sentinel_password_file: must be absent if the store's URL holds a user or password, got both",
            ),
        ] {
            assert_eq!(load(store).unwrap_err(), [fault], "{store}");
        }
        let missing = load("{type: redis, url: 'rediss://a', tls: {ca_file: nowhere.pem}}").unwrap_err();
        assert!(
            missing[0].starts_with("store.tls.ca_file: must be a file that can be read, got \"nowhere.pem\""),
            "{missing:?}"
        );
    }
}
