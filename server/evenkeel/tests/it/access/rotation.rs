//! Tests the rotation of certificates under load.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{GATEWAY, admits, endpoint, start};
use crate::support::{
    eventually,
    sidecar::Running,
    tls::{Authority, Pair, replace},
};

const LIMIT: Duration = Duration::from_secs(20);
/// Clients that make all calls on one connection, and clients that connect anew for each call.
const CLIENTS: [bool; 6] = [true, true, true, false, false, false];

/// Returns the certificate that new connections to a port get.
async fn presented(address: &str) -> Vec<u8> {
    let config = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into());
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(trust::Everybody));
    let connector = TlsConnector::from(Arc::new(config.with_no_client_auth()));
    let stream = TcpStream::connect(address).await.unwrap();
    let stream = connector.connect(ServerName::try_from("x.example").unwrap(), stream).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn der(pair: &Pair) -> Vec<u8> {
    CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap().to_vec()
}

/// Replaces the sidecar's certificate, and waits until both listeners present the new one.
async fn rotate(directory: &Path, sidecar: &Running, pair: &Pair) {
    pair.write(directory, "server");
    for address in [sidecar.addresses.grpc.as_ref().unwrap(), &sidecar.addresses.http] {
        eventually(LIMIT, "the new certificate", || async {
            if presented(address).await == der(pair) { Ok(()) } else { Err("the old one".to_owned()) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_certificates_are_rotated() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new(), Authority::new());
    let sidecar = start(directory.path(), &old).await;
    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    // Clients trust both authorities. Half of them get certificates of the new authority later.
    let trusted = format!("{}{}", old.pem, new.pem);
    let load = |client: usize, keeps: bool, pair: Pair, mut lease: u64| {
        let (stop, calls) = (Arc::clone(&stop), Arc::clone(&calls));
        let endpoint = endpoint(&sidecar, &trusted, Some(&pair));
        tokio::spawn(async move {
            let mut channel = endpoint.connect().await.unwrap();
            while !stop.load(Ordering::Relaxed) {
                lease += 1;
                admits(channel.clone(), &format!("h-{client}"), lease).await.unwrap();
                calls.fetch_add(1, Ordering::Relaxed);
                if !keeps {
                    channel = endpoint.connect().await.unwrap();
                }
            }
        })
    };
    let old_client = old.sign(&[GATEWAY]);
    let of_old: Vec<_> =
        CLIENTS.iter().enumerate().map(|(i, keeps)| load(i, *keeps, old_client.clone(), 0)).collect();
    for _ in 0..5 {
        rotate(directory.path(), &sidecar, &old.sign(&["127.0.0.1"])).await;
    }
    // A new authority: first trusted beside the old one, then used by the sidecar and by clients.
    replace(&directory.path().join("ca.crt"), &trusted);
    let new_client = new.sign(&[GATEWAY]);
    eventually(LIMIT, "the new authority is trusted", || async {
        let channel = endpoint(&sidecar, &trusted, Some(&new_client)).connect().await;
        let channel = channel.map_err(|error| format!("{error:?}"))?;
        admits(channel, "h-new", 1).await.map_err(|status| status.to_string())
    })
    .await;
    rotate(directory.path(), &sidecar, &new.sign(&["127.0.0.1"])).await;
    let of_new: Vec<_> =
        CLIENTS.iter().enumerate().map(|(i, keeps)| load(100 + i, *keeps, new_client.clone(), 0)).collect();
    rotate(directory.path(), &sidecar, &new.sign(&["127.0.0.1"])).await;
    stop.store(true, Ordering::Relaxed);
    for client in of_old.into_iter().chain(of_new) {
        client.await.expect("no call fails");
    }
    assert!(calls.load(Ordering::Relaxed) > 100, "{calls:?}");
}

/// Guards against a fault elsewhere in the configuration that lets the certificate expire.
#[tokio::test]
async fn certificates_are_rotated_while_the_configuration_is_invalid() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let sidecar = start(directory.path(), &authority).await;
    replace(&directory.path().join("evenkeel.yaml"), "nothing: good");
    rotate(directory.path(), &sidecar, &authority.sign(&["127.0.0.1"])).await;
}

/// Guards against a rotation in two steps, and against files that are cut off.
#[tokio::test]
async fn a_certificate_without_its_key_does_not_apply() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let sidecar = start(directory.path(), &authority).await;
    let (address, before) =
        (sidecar.addresses.grpc.clone().unwrap(), std::fs::read(directory.path().join("server.crt")));
    let before = CertificateDer::from_pem_slice(&before.unwrap()).unwrap().to_vec();
    let next = authority.sign(&["127.0.0.1"]);
    for text in [next.cert.as_str(), &next.cert[..100], ""] {
        replace(&directory.path().join("server.crt"), text);
        assert_eq!(presented(&address).await, before);
    }
    rotate(directory.path(), &sidecar, &next).await;
}

mod trust {
    //! A client that accepts every certificate, to see what the sidecar presents.

    use rustls::{
        DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::ring::default_provider,
        pki_types::{CertificateDer, ServerName, UnixTime},
    };

    #[derive(Debug)]
    pub(super) struct Everybody;

    impl ServerCertVerifier for Everybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            default_provider().signature_verification_algorithms.supported_schemes()
        }
    }
}
