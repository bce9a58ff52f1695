//! Reads certificates and keys from PEM files. Errors name the field and the file, and never show a key.

use std::{fmt, path::Path};

use rustls::{
    RootCertStore,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{Error, PemObject as _},
    },
};

/// Maximum size of a file, in bytes: enough for several hundred certificates.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFault {
    /// Field of the section `tls` that names the file.
    pub field: &'static str,
    /// Completes "must be …".
    pub expected: String,
    /// The file, and what was found.
    pub got: String,
}

impl FileFault {
    pub(crate) fn new(field: &'static str, expected: &str, file: &Path, found: impl fmt::Display) -> Self {
        Self {
            field,
            expected: expected.to_owned(),
            got: format!("{:?}: {found}", file.display().to_string()),
        }
    }
}

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tls.{}: must be {}, got {}", self.field, self.expected, self.got)
    }
}

fn read(field: &'static str, path: &Path) -> Result<Vec<u8>, FileFault> {
    let fault = |found: &dyn fmt::Display| FileFault::new(field, "a file that can be read", path, found);
    let size = std::fs::metadata(path).map_err(|error| fault(&error))?.len();
    if size > FILE_BYTES_MAX {
        return Err(fault(&"larger than 1 MiB"));
    }
    std::fs::read(path).map_err(|error| fault(&error))
}

fn certificates(field: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, FileFault> {
    let fault =
        |found: &dyn fmt::Display| FileFault::new(field, "a file of certificates in PEM", path, found);
    let text = read(field, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(fault(&"none in it")),
        Ok(found) => Ok(found),
        Err(error) => Err(fault(&error)),
    }
}

/// Reads the sidecar's certificate chain, which has at least one certificate.
pub(crate) fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileFault> {
    certificates("cert_file", path)
}

pub(crate) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, FileFault> {
    let fault = |found: &dyn fmt::Display| {
        FileFault::new("key_file", "a file with an unencrypted private key in PEM", path, found)
    };
    let text = read("key_file", path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        Error::NoItemsFound if text.windows(9).any(|word| word == b"ENCRYPTED") => fault(&"an encrypted key"),
        Error::NoItemsFound => fault(&"none in it"),
        // Other errors may quote the text, which may be a key.
        _ => fault(&"a text that is not PEM"),
    })
}

pub(crate) fn authorities(path: &Path) -> Result<RootCertStore, FileFault> {
    let mut roots = RootCertStore::empty();
    for (place, certificate) in certificates("client_ca_file", path)?.into_iter().enumerate() {
        roots.add(certificate).map_err(|error| {
            let found = format!("certificate {}: {error}", place + 1);
            FileFault::new("client_ca_file", "a file of certificates in PEM", path, found)
        })?;
    }
    Ok(roots)
}
