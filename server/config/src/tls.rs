//! The section `tls`: certificates of the listeners.

use evenkeel_domain::clock::unix_ms;
use evenkeel_tls::{MinVersion, ServerTls, TlsOptions};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Files, check::Check};

/// TLS on the TCP listeners. The sidecar reads the files again when they change. Open connections continue with the
/// certificates with which they began.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["cert_file", "key_file"]))]
pub(super) struct RawTls {
    /// A file with the sidecar's certificate in PEM, followed by the intermediate certificates. This and the other
    /// paths are resolved against the configuration file's directory.
    cert_file: Option<String>,
    /// A file with the certificate's private key in PEM, not encrypted.
    key_file: Option<String>,
    /// A file with the certificates, in PEM, of the authorities that sign clients' certificates. With this field, the
    /// sidecar asks clients for a certificate, and rejects one that is expired or signed by another authority. The
    /// `certificates` of `gateway`, `reader` and `admin` say which names have which role.
    #[schemars(extend("x-default" = "none"))]
    client_ca_file: Option<String>,
    /// `required` rejects a gRPC client without a certificate during the handshake. `optional` admits it: it then has the
    /// roles of its token and of the listener. HTTP clients, such as probes, never need a certificate.
    #[schemars(extend("default" = "optional"))]
    client_certificates: Option<RawClientCertificates>,
    /// The oldest version of TLS that clients may use.
    #[schemars(extend("default" = "1.2"))]
    min_version: Option<RawMinVersion>,
    /// The listeners with TLS.
    #[schemars(length(min = 1), extend("default" = ["grpc", "http"]))]
    listeners: Option<Vec<RawListener>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum RawClientCertificates {
    Optional,
    Required,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(inline)]
enum RawMinVersion {
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum RawListener {
    Grpc,
    Http,
}

impl RawTls {
    pub(super) fn has_client_ca(&self) -> bool {
        self.client_ca_file.is_some()
    }
}

/// TLS of the TCP listeners, with the files as last read.
#[derive(Clone, Debug)]
pub struct Tls {
    pub options: TlsOptions,
    pub loaded: ServerTls,
    /// Whether the gRPC listener has TLS.
    pub grpc: bool,
    /// Whether the HTTP listener has TLS.
    pub http: bool,
}

pub(super) fn validate(check: &mut Check, files: &mut Files, raw: RawTls) -> Option<Tls> {
    if raw.listeners.as_ref().is_some_and(Vec::is_empty) {
        check.fault("tls.listeners", "grpc, http or both", "none");
    }
    if raw.client_certificates == Some(RawClientCertificates::Required) && raw.client_ca_file.is_none() {
        check.fault("tls.client_ca_file", "given if tls.client_certificates is required", "none");
    }
    let mut path = |field: &str, file: Option<String>| {
        let Some(file) = file.filter(|file| !file.is_empty()) else {
            check.required(&format!("tls.{field}"), "the path of a file in PEM");
            return None;
        };
        Some(files.watch(&file))
    };
    let (cert_file, key_file) = (path("cert_file", raw.cert_file), path("key_file", raw.key_file));
    let client_ca_file = raw.client_ca_file.map(|file| files.watch(&file));
    let options = TlsOptions {
        cert_file: cert_file?,
        key_file: key_file?,
        client_ca_file,
        client_certificates_required: raw.client_certificates == Some(RawClientCertificates::Required),
        min_version: match raw.min_version {
            Some(RawMinVersion::Tls13) => MinVersion::Tls13,
            Some(RawMinVersion::Tls12) | None => MinVersion::Tls12,
        },
    };
    let loaded = match options.load() {
        Ok(loaded) => loaded,
        Err(faults) => {
            faults.iter().for_each(|fault| check.push(fault.to_string()));
            return None;
        }
    };
    if let Some(fault) = loaded.validity.fault_at(unix_ms() / 1000) {
        let file = options.cert_file.display();
        check.warn("tls.cert_file", &format!("the certificate in {file} {fault}: clients reject it"));
    }
    let listeners = raw.listeners.unwrap_or_else(|| vec![RawListener::Grpc, RawListener::Http]);
    let has = |listener| listeners.contains(&listener);
    Some(Tls { options, loaded, grpc: has(RawListener::Grpc), http: has(RawListener::Http) })
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use crate::{Config, Faults};

    fn write(directory: &Path, name: &str, change: impl FnOnce(&mut rcgen::CertificateParams)) {
        let mut params = rcgen::CertificateParams::new(["sidecar.example".to_owned()]).unwrap();
        change(&mut params);
        let key = rcgen::KeyPair::generate().unwrap();
        fs::write(directory.join(format!("{name}.crt")), params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(directory.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    fn parse(directory: &Path, yaml: &str) -> Result<Config, Faults> {
        Config::parse_in(yaml, directory)
    }

    #[test]
    fn the_section_is_read() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), "a", |_| {});
        let config = parse(
            directory.path(),
            "tls: {cert_file: a.crt, key_file: a.key, client_ca_file: a.crt, client_certificates: required, \
             min_version: '1.3', listeners: [grpc]}\ngateway: {certificates: [g.example]}",
        )
        .unwrap();
        let tls = config.tls.unwrap();
        assert!(tls.grpc && !tls.http && tls.options.client_certificates_required);
        assert_eq!(config.files, [directory.path().join("a.crt"), directory.path().join("a.key")]);
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        assert!(Config::parse("").unwrap().tls.is_none());
    }

    #[test]
    fn every_fault_is_reported() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), "a", |_| {});
        write(directory.path(), "b", |_| {});
        let cases = [
            ("{}", vec!["tls.cert_file: must be the path", "tls.key_file: must be the path"]),
            (
                "{cert_file: a.crt, key_file: b.key}",
                vec!["tls.key_file: must be the key of the certificate in"],
            ),
            (
                "{cert_file: x, key_file: y, client_ca_file: z}",
                vec![
                    "tls.cert_file: must be a file",
                    "tls.key_file: must be a file",
                    "tls.client_ca_file: must be",
                ],
            ),
            (
                "{cert_file: a.crt, key_file: a.key, client_certificates: required, listeners: []}",
                vec!["tls.listeners: must be grpc", "tls.client_ca_file: must be given if tls.client_cert"],
            ),
            (
                "{cert_file: a.crt, key_file: a.key, min_version: '1.1'}",
                vec!["tls.min_version: must be 1.2 or 1.3"],
            ),
        ];
        for (section, starts) in cases {
            let found = parse(directory.path(), &format!("tls: {section}")).unwrap_err().0;
            assert_eq!(found.len(), starts.len(), "{section}: {found:#?}");
            for (fault, start) in found.iter().zip(starts) {
                assert!(fault.starts_with(start), "{fault}\ndoes not start with\n{start}");
            }
        }
    }

    #[test]
    fn a_certificate_out_of_its_time_is_a_warning() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), "old", |params| {
            params.not_before = rcgen::date_time_ymd(2019, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        });
        let config = parse(directory.path(), "tls: {cert_file: old.crt, key_file: old.key}").unwrap();
        let [warning] = &config.warnings[..] else { panic!("{:?}", config.warnings) };
        assert!(warning.starts_with("tls.cert_file: the certificate in ") && warning.contains("expired"));
    }
}
