//! TLS for the sidecar's listeners: reads certificate files, checks them, and builds what rustls needs.
//!
//! The crate does no network I/O, so the configuration can check files before a sidecar starts.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, ring},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};

mod certificates;
mod files;

pub use certificates::{Validity, names};
pub use files::FileFault;

/// Protocol that gRPC clients must negotiate, if they negotiate one.
const ALPN_GRPC: &[u8] = b"h2";
/// Protocol of the HTTP listener.
const ALPN_HTTP: &[u8] = b"http/1.1";

/// The oldest version of TLS that clients may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinVersion {
    #[default]
    Tls12,
    Tls13,
}

/// Which files hold the sidecar's certificate, and which clients may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    /// The sidecar's certificate in PEM, followed by the intermediate certificates.
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    /// Certificates of the authorities that sign clients' certificates. `None`: clients show no certificate.
    pub client_ca_file: Option<PathBuf>,
    /// Whether the gRPC listener rejects clients without a certificate during the handshake.
    pub client_certificates_required: bool,
    pub min_version: MinVersion,
}

/// The configurations of both TCP listeners, from one reading of the files.
#[derive(Clone, Debug)]
pub struct ServerTls {
    pub grpc: Arc<ServerConfig>,
    pub http: Arc<ServerConfig>,
    /// When the sidecar's certificate is valid.
    pub validity: Validity,
}

impl TlsOptions {
    /// Returns the paths of all files.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.cert_file, &self.key_file].into_iter().chain(&self.client_ca_file)
    }

    /// Reads the files.
    ///
    /// # Errors
    /// Returns every fault. Each names the field of the configuration and the file.
    pub fn load(&self) -> Result<ServerTls, Vec<FileFault>> {
        let provider = Arc::new(ring::default_provider());
        let mut faults = Vec::new();
        let identity = self.identity(&provider, &mut faults);
        let roots = self.client_ca_file.as_ref().map(|path| files::authorities(path).map(Arc::new));
        let roots = roots.transpose().map_err(|fault| faults.push(fault)).ok();
        let (Some((identity, validity)), Some(roots)) = (identity, roots) else { return Err(faults) };
        let build = |alpn: &[u8], required| self.build(&provider, &identity, roots.as_ref(), alpn, required);
        // Probes of the HTTP listener show no certificate.
        let grpc = build(ALPN_GRPC, self.client_certificates_required);
        match (grpc, build(ALPN_HTTP, false)) {
            (Ok(grpc), Ok(http)) => Ok(ServerTls { grpc, http, validity }),
            (Err(fault), _) | (_, Err(fault)) => Err(vec![fault]),
        }
    }

    /// Reads the sidecar's own certificate and key.
    fn identity(
        &self,
        provider: &CryptoProvider,
        faults: &mut Vec<FileFault>,
    ) -> Option<(Arc<CertifiedKey>, Validity)> {
        let chain = files::chain(&self.cert_file).map_err(|fault| faults.push(fault)).ok();
        let key = files::key(&self.key_file).map_err(|fault| faults.push(fault)).ok();
        let (chain, key) = (chain?, key?);
        let validity = match Validity::of(&chain[0]) {
            Ok(validity) => validity,
            Err(error) => {
                let expected = "a file whose first certificate is that of a server";
                faults.push(FileFault::new("cert_file", expected, &self.cert_file, error));
                return None;
            }
        };
        match CertifiedKey::from_der(chain, key, provider) {
            Ok(identity) => Some((Arc::new(identity), validity)),
            Err(rustls::Error::InconsistentKeys(_)) => {
                let expected = format!("the key of the certificate in {:?}", self.cert_file);
                faults.push(FileFault::new("key_file", &expected, &self.key_file, "the key of another one"));
                None
            }
            Err(error) => {
                let expected = "a file with a private key that TLS can use";
                faults.push(FileFault::new("key_file", expected, &self.key_file, error));
                None
            }
        }
    }

    fn build(
        &self,
        provider: &Arc<CryptoProvider>,
        identity: &Arc<CertifiedKey>,
        roots: Option<&Arc<RootCertStore>>,
        alpn: &[u8],
        required: bool,
    ) -> Result<Arc<ServerConfig>, FileFault> {
        let versions: &[&SupportedProtocolVersion] = match self.min_version {
            MinVersion::Tls12 => &[&TLS13, &TLS12],
            MinVersion::Tls13 => &[&TLS13],
        };
        let of_cert = |error| FileFault::new("cert_file", "usable with TLS", &self.cert_file, error);
        let config = ServerConfig::builder_with_provider(Arc::clone(provider));
        let config = config.with_protocol_versions(versions).map_err(of_cert)?;
        let config = match (roots, &self.client_ca_file) {
            (Some(roots), Some(path)) => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider));
                let verifier = if required { verifier } else { verifier.allow_unauthenticated() };
                let fault = |error| FileFault::new("client_ca_file", "usable with TLS", path, error);
                config.with_client_cert_verifier(verifier.build().map_err(fault)?)
            }
            _ => config.with_no_client_auth(),
        };
        let resolver = rustls::sign::SingleCertAndKey::from(Arc::clone(identity));
        let mut config = config.with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![alpn.to_vec()];
        // A resumed session would skip the check of the client's certificate, which may have expired meanwhile.
        // Gateways keep their connections open, so full handshakes are rare.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

#[cfg(test)]
mod tests;
