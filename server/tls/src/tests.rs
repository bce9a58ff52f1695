//! Tests of files, names and times.

use std::{fs, path::Path};

use rcgen::{CertificateParams, DnType, KeyPair, SanType, date_time_ymd};

use super::*;

/// A directory with the files of a sidecar, and the options that name them.
fn place() -> (tempfile::TempDir, TlsOptions) {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let made = rcgen::generate_simple_self_signed(["sidecar.example".to_owned()]).unwrap();
    fs::write(at("tls.crt"), made.cert.pem()).unwrap();
    fs::write(at("tls.key"), made.signing_key.serialize_pem()).unwrap();
    fs::write(at("ca.crt"), made.cert.pem()).unwrap();
    let options = TlsOptions {
        cert_file: at("tls.crt"),
        key_file: at("tls.key"),
        client_ca_file: Some(at("ca.crt")),
        client_certificates_required: true,
        min_version: MinVersion::Tls12,
    };
    (directory, options)
}

fn certificate(change: impl FnOnce(&mut CertificateParams)) -> rcgen::Certificate {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "not-a-name");
    change(&mut params);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap()
}

#[test]
fn every_fault_names_its_field_and_file() {
    let (directory, options) = place();
    options.load().unwrap();
    let other = KeyPair::generate().unwrap().serialize_pem();
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\naGVsbG8=\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let broken = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    let cases: [(&str, Option<&str>, &str); 10] = [
        ("tls.crt", None, "tls.cert_file: must be a file that can be read, got"),
        ("tls.crt", Some(""), "tls.cert_file: must be a file of certificates in PEM, got"),
        (
            "tls.crt",
            Some(broken),
            "tls.cert_file: must be a file whose first certificate is that of a server",
        ),
        ("tls.key", None, "tls.key_file: must be a file that can be read, got"),
        (
            "tls.key",
            Some("s3cret"),
            "tls.key_file: must be a file with an unencrypted private key in PEM, got",
        ),
        ("tls.key", Some(encrypted), "an encrypted key"),
        ("tls.key", Some(&other), "tls.key_file: must be the key of the certificate in"),
        ("ca.crt", None, "tls.client_ca_file: must be a file that can be read, got"),
        ("ca.crt", Some(&other), "tls.client_ca_file: must be a file of certificates in PEM, got"),
        ("ca.crt", Some(broken), "certificate 1: "),
    ];
    for (file, text, expected) in cases {
        let path = directory.path().join(file);
        let before = fs::read(&path).unwrap();
        match text {
            Some(text) => fs::write(&path, text).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let [fault] = &options.load().unwrap_err()[..] else { panic!("{file} {text:?}") };
        let message = fault.to_string();
        assert!(message.contains(expected), "{message}\ndoes not contain\n{expected}");
        assert!(message.contains(file) && !message.contains("s3cret"), "{message}");
        fs::write(&path, before).unwrap();
    }
    for file in ["tls.crt", "tls.key", "ca.crt"] {
        fs::remove_file(directory.path().join(file)).unwrap();
    }
    assert_eq!(options.load().unwrap_err().len(), 3);
}

/// `ServerConfig` may have to be logged with the rest of the configuration.
#[test]
fn debug_output_has_no_key() {
    let (directory, options) = place();
    let pem = fs::read_to_string(directory.path().join("tls.key")).unwrap();
    let line = pem.lines().nth(1).unwrap();
    assert!(!format!("{:?}", options.load().unwrap()).contains(line));
}

#[test]
fn names_are_uris_and_dns_names_but_no_subject() {
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let dns = |text: &str| SanType::DnsName(text.try_into().unwrap());
    let made = certificate(|params| {
        let address = SanType::IpAddress("127.0.0.1".parse().unwrap());
        params.subject_alt_names =
            vec![dns("Gateway.Example"), uri("spiffe://cluster.local/ns/a/sa/gateway"), address];
    });
    assert_eq!(names(made.der()), ["spiffe://cluster.local/ns/a/sa/gateway", "gateway.example"]);
    assert!(names(certificate(|_| {}).der()).is_empty());
    assert!(names(&vec![1, 2, 3].into()).is_empty());
}

#[test]
fn the_validity_is_read() {
    let made = certificate(|params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let validity = Validity::of(made.der()).unwrap();
    assert_eq!((validity.not_before_s, validity.not_after_s), (1_577_836_800, 1_609_459_200));
    for (now, fault) in [
        (1_577_836_800, None),
        (1_609_459_200, None),
        (1_577_836_740, Some("is valid only in 60 s")),
        (1_609_466_400, Some("expired 2 h ago")),
    ] {
        assert_eq!(validity.fault_at(now).as_deref(), fault);
    }
    let for_ever = certificate(|params| {
        params.not_before = date_time_ymd(1970, 1, 1);
        params.not_after = date_time_ymd(9999, 12, 31);
    });
    assert_eq!(Validity::of(for_ever.der()).unwrap().not_before_s, 0);
}

#[test]
fn options_name_their_files() {
    let (_directory, options) = place();
    let names: Vec<_> = options.paths().filter_map(|path| path.file_name().map(Path::new)).collect();
    assert_eq!(names, [Path::new("tls.crt"), Path::new("tls.key"), Path::new("ca.crt")]);
}
