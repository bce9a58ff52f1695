//! Certificates for sidecars and gateways that use TLS.

use std::{fs, net::IpAddr, path::Path};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

use super::LabError;

fn failed(error: impl std::fmt::Display) -> LabError {
    LabError::Response { what: format!("making certificates: {error}") }
}

/// Makes an authority, and a certificate for each of `subjects`: the name of its files, and an IP address or a URI.
/// Writes `ca.crt`, and `NAME.crt` and `NAME.key` for each name, to `directory`.
pub fn write_certificates(directory: &Path, subjects: &[(&str, &str)]) -> Result<(), LabError> {
    let write = |file: String, text: String| {
        fs::write(directory.join(file), text).map_err(LabError::io("writing certificates"))
    };
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Envoy takes a certificate with the subject of its issuer for a self-signed one.
    params.distinguished_name.push(DnType::CommonName, "authority");
    let key = KeyPair::generate().map_err(failed)?;
    write("ca.crt".to_owned(), params.self_signed(&key).map_err(failed)?.pem())?;
    let authority = Issuer::new(params, key);
    for (name, subject) in subjects {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![match subject.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::URI((*subject).try_into().map_err(failed)?),
        }];
        let key = KeyPair::generate().map_err(failed)?;
        write(format!("{name}.crt"), params.signed_by(&key, &authority).map_err(failed)?.pem())?;
        write(format!("{name}.key"), key.serialize_pem())?;
    }
    Ok(())
}
