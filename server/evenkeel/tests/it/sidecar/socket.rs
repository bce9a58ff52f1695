//! Tests the Unix socket for gRPC.

use evenkeel_proto::v1::gateway_client::GatewayClient;

use super::TWO;
use crate::support::{requests::admit, sidecar::Sidecar};

#[tokio::test]
async fn the_unix_socket_serves_health_and_reflection() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ek.sock");
    let yaml = format!(
        "listen: {{grpc: '127.0.0.1:0', http: '127.0.0.1:0', grpc_socket: '{}', grpc_socket_mode: '0600'}}\n{TWO}",
        path.display()
    );
    // The sidecar replaces the socket file that a dead process left.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let s = Sidecar::start_at(&yaml).await;
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let channel = tonic::transport::Endpoint::from_shared(format!("unix:{}", path.display())).unwrap();
    let channel = channel.connect().await.unwrap();
    GatewayClient::new(channel.clone()).admit(admit("llm", 1)).await.unwrap();
    assert_eq!(s.pool("llm").await.in_flight, 1);

    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    let check = tonic_health::pb::HealthCheckRequest { service: "evenkeel.v1.Gateway".into() };
    assert_eq!(health.check(check).await.unwrap().into_inner().status, 1);

    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::once(list))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(services) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = services.service.iter().map(|s| s.name.as_str()).collect();
    assert!(names.contains(&"evenkeel.v1.Gateway") && names.contains(&"evenkeel.v1.Inspect"), "{names:?}");

    // A second sidecar does not take over a socket in use.
    let config = evenkeel_config::Config::parse(&yaml).unwrap();
    let taken = evenkeel::app::Listeners::bind(&config).await.err().expect("the socket is taken");
    assert!(format!("{taken:#}").contains("another process listens on this socket"), "{taken:#}");

    s.shutdown.cancel();
    s.task.await.unwrap().unwrap();
    assert!(!path.exists(), "the socket is removed at the end");
}
