//! Tests TLS on the listeners, and the roles of callers.

use std::{path::Path, sync::Arc, time::Duration};

use evenkeel_config::Config;
use evenkeel_proto::{
    HolderClient, HolderSecret,
    v1::{self as pb, inspect_client::InspectClient},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tonic::{
    Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use crate::support::{
    requests::admit,
    sidecar::{Running, run},
    tls::{Authority, Pair},
};

mod failures;
mod reload;
mod roles;
mod rotation;
mod startup;
mod table;

/// Name in the client certificate of a gateway.
const GATEWAY: &str = "spiffe://test/ns/ai/sa/gateway";
/// Listeners that are open to nobody.
const CLOSED: &str = "listen: {grpc: '127.0.0.1:0', grpc_roles: [], http: '127.0.0.1:0', http_roles: []}\n";
const POOL: &str = "pools: [{cluster: llm, endpoints: [{address: 'a:1'}, {address: 'b:1'}]}]\n";
const CERTIFICATES: &str = "gateway: {certificates: ['spiffe://test/ns/ai/sa/gateway']}\n\
    reader: {certificates: [reader.example]}\nadmin: {certificates: [ops.example]}\n";
const TLS: &str = "tls: {cert_file: server.crt, key_file: server.key, client_ca_file: ca.crt}\n";

/// Writes the files of a sidecar for `127.0.0.1`, and a configuration that ends with `yaml`.
fn write(directory: &Path, authority: &Authority, yaml: &str) -> Config {
    authority.sign(&["127.0.0.1"]).write(directory, "server");
    std::fs::write(directory.join("ca.crt"), &authority.pem).unwrap();
    let path = directory.join("evenkeel.yaml");
    std::fs::write(&path, format!("{CLOSED}{POOL}{yaml}")).unwrap();
    Config::load(&path).unwrap()
}

/// Starts a sidecar with mutual TLS.
async fn start(directory: &Path, authority: &Authority) -> Running {
    run(write(directory, authority, &format!("{TLS}{CERTIFICATES}"))).await
}

/// Prepares connections that trust `authority` and show `client`'s certificate.
fn endpoint(sidecar: &Running, authority: &str, client: Option<&Pair>) -> Endpoint {
    let url = format!("https://{}", sidecar.addresses.grpc.as_ref().unwrap());
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority));
    let tls = match client {
        Some(Pair { cert, key }) => tls.identity(Identity::from_pem(cert, key)),
        None => tls,
    };
    let endpoint = Endpoint::from_shared(url).unwrap().tls_config(tls).unwrap();
    endpoint.connect_timeout(Duration::from_secs(10)).timeout(Duration::from_secs(10))
}

async fn list_pools(channel: Channel) -> Result<usize, Status> {
    let pools = InspectClient::new(channel).list_pools(pb::ListPoolsRequest::default()).await?;
    Ok(pools.into_inner().pools.len())
}

async fn admits(channel: Channel, holder: &str, lease: u64) -> Result<(), Status> {
    let request = pb::AdmitRequest { holder: holder.to_owned(), ..admit("llm", lease) };
    HolderClient::new(HolderSecret::new([5; 16]).on(channel)).admit(request).await.map(drop)
}

/// Sends an HTTP/1.1 request over TLS. Returns the answer as far as it arrives at once.
async fn https(address: &str, authority: &Authority, client: Option<&Pair>, request: &str) -> String {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    let provider = rustls::crypto::ring::default_provider();
    let config = rustls::ClientConfig::builder_with_provider(provider.into());
    let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let config = match client {
        Some(Pair { cert, key }) => {
            let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
        None => config.with_no_client_auth(),
    };
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 1024];
    let mut length = 0;
    // The head of a response ends with an empty line. `connection: close` asks for the rest.
    while !answer[..length].windows(4).any(|end| end == b"\r\n\r\n") || request.contains("connection: close")
    {
        if answer.len() == length {
            answer.resize(2 * length, 0);
        }
        match stream.read(&mut answer[length..]).await {
            // The server may close without a close_notify.
            Ok(0) | Err(_) => break,
            Ok(read) => length += read,
        }
    }
    String::from_utf8_lossy(&answer[..length]).into_owned()
}
