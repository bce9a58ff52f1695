//! The options for TLS.

use std::path::{Path, PathBuf};

use clap::Args;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::exit::{Exit, Fault};

/// The options for TLS, which only https:// addresses use.
#[derive(Args, Clone, Default)]
pub(super) struct ClientTls {
    /// For https://: a file with the authorities that sign the sidecar's certificate, in PEM; by default those of the
    /// system
    #[arg(long, env = "EVENKEEL_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// For https://: a file with the client certificate, in PEM
    #[arg(long, env = "EVENKEEL_CERT_FILE", value_name = "FILE")]
    cert_file: Option<PathBuf>,
    /// For https://: a file with the client certificate's key, in PEM
    #[arg(long, env = "EVENKEEL_KEY_FILE", value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// For https://: the name in the sidecar's certificate, if it is not the host of --server
    #[arg(long, env = "EVENKEEL_SERVER_NAME", value_name = "NAME")]
    server_name: Option<String>,
}

impl ClientTls {
    /// # Errors
    /// [`Exit::Usage`] if a file cannot be read, or only one of certificate and key is given.
    pub(super) fn config(&self) -> anyhow::Result<ClientTlsConfig> {
        let config = ClientTlsConfig::new();
        let config = match &self.ca_file {
            Some(path) => config.ca_certificate(Certificate::from_pem(read("--ca-file", path)?)),
            None => config.with_native_roots(),
        };
        let config = match (&self.cert_file, &self.key_file) {
            (Some(cert), Some(key)) => {
                config.identity(Identity::from_pem(read("--cert-file", cert)?, read("--key-file", key)?))
            }
            (None, None) => config,
            (Some(_), None) => return Err(missing("--key-file", "--cert-file")),
            (None, Some(_)) => return Err(missing("--cert-file", "--key-file")),
        };
        Ok(match &self.server_name {
            Some(name) => config.domain_name(name),
            None => config,
        })
    }
}

fn missing(wanted: &str, given: &str) -> anyhow::Error {
    Fault::error(Exit::Usage, format!("{wanted}: must be given if {given} is, got none"))
}

fn read(option: &str, path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| {
        let path = path.display();
        Fault::error(Exit::Usage, format!("{option}: must be a file that can be read, got {path}: {error}"))
    })
}
