//! Tests who has which role.

use tonic::{Code, transport::Endpoint};

use super::{CERTIFICATES, CLOSED, GATEWAY, POOL, TLS, admits, endpoint, list_pools, start, write};
use crate::support::{
    admin::{by, client, set_quota},
    http,
    requests::admit,
    sidecar::{Sidecar, run},
    tls::Authority,
};

#[tokio::test]
async fn a_certificate_has_the_roles_of_its_names() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let sidecar = start(directory.path(), &authority).await;
    let connect = async |names: &[&str]| {
        endpoint(&sidecar, &authority.pem, Some(&authority.sign(names))).connect().await.unwrap()
    };
    let gateway = connect(&[GATEWAY]).await;
    admits(gateway.clone(), "h", 1).await.unwrap();
    let refused = list_pools(gateway).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let expected = format!(
        "this call needs the role reader: reader.certificates lists no name of the client certificate ({GATEWAY})"
    );
    assert_eq!(refused.message(), expected);

    for names in [&["reader.example"][..], &["Reader.Example"], &["other.example", "reader.example"]] {
        assert_eq!(list_pools(connect(names).await).await.unwrap(), 1, "{names:?}");
    }
    for names in [&["spiffe://test/ns/ai/sa/gateway2"][..], &["*.example"], &["127.0.0.1"], &[]] {
        let channel = connect(names).await;
        assert_eq!(list_pools(channel.clone()).await.unwrap_err().code(), Code::PermissionDenied);
        let refused = admits(channel, "h", 1).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{names:?}: {refused}");
    }
    // A client without a certificate connects, for example for the health check.
    let stranger = endpoint(&sidecar, &authority.pem, None).connect().await.unwrap();
    let refused = admits(stranger.clone(), "h", 1).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().starts_with("this call needs the role gateway: send a token"), "{refused}");
    let mut health = tonic_health::pb::health_client::HealthClient::new(stranger);
    health.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap();
}

#[tokio::test]
async fn a_token_has_one_role_over_both_protocols() {
    let tokens = "gateway: {tokens: [{name: gw, token: gggggggggggggggg}]}\n\
        reader: {tokens: [{name: grafana, token: rrrrrrrrrrrrrrrr}]}\n\
        admin: {tokens: [{name: ops, token: 0123456789abcdef}]}\n\
        quotas: [{name: credit, counts: tokens, kind: prepaid}]\n";
    let sidecar = Sidecar::start_at(&format!("{CLOSED}{POOL}{tokens}")).await;
    let refused = sidecar.gateway.clone().admit(admit("llm", 1)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    sidecar.gateway.clone().admit(by("gggggggggggggggg", admit("llm", 1))).await.unwrap();
    let refused = sidecar.gateway.clone().admit(by("rrrrrrrrrrrrrrrr", admit("llm", 2))).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (
            Code::PermissionDenied,
            "this call needs the role gateway, which the token of \"grafana\" does not have"
        )
    );

    let mut admin = client(&sidecar).await;
    let code = |token: &str| by(token, set_quota("credit", "a", 1));
    assert_eq!(admin.set_quota(code("rrrrrrrrrrrrrrrr")).await.unwrap_err().code(), Code::PermissionDenied);
    admin.set_quota(code("0123456789abcdef")).await.unwrap();

    for (path, token, expected) in [
        ("/api/v1/pools", None, 401),
        ("/api/v1/pools", Some("gggggggggggggggg"), 403),
        ("/api/v1/pools", Some("rrrrrrrrrrrrrrrr"), 200),
        ("/api/v1/pools", Some("0123456789abcdef"), 200),
        ("/metrics", None, 401),
        ("/metrics", Some("rrrrrrrrrrrrrrrr"), 200),
        ("/healthz", None, 200),
        ("/readyz", None, 200),
        ("/", None, 200),
        ("/assets/main.js", None, 200),
        ("/api/v1/nothing", None, 404),
    ] {
        let mut request = axum::http::Request::get(format!("http://{}{path}", sidecar.addresses.http));
        if let Some(token) = token {
            request = request.header("x-evenkeel-token", token);
        }
        let (status, body) =
            http::text(http::send(request.body(axum::body::Body::empty()).unwrap()).await).await;
        assert_eq!(status, expected, "{path} {token:?}: {body}");
    }
    let metrics = http::send(
        axum::http::Request::get(format!("http://{}/metrics", sidecar.addresses.http))
            .header("authorization", "Bearer rrrrrrrrrrrrrrrr")
            .body(axum::body::Body::empty())
            .unwrap(),
    );
    let (_, metrics) = http::text(metrics.await).await;
    for line in [
        r#"evenkeel_calls_rejected_total{reason="no_token",role="gateway"} 1"#,
        r#"evenkeel_calls_rejected_total{reason="token_lacks_role",role="gateway"} 1"#,
        r#"evenkeel_calls_rejected_total{reason="token_lacks_role",role="admin"} 1"#,
        r#"evenkeel_admin_calls_total{result="accepted"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

#[tokio::test]
async fn metrics_have_a_setting_of_their_own() {
    let listen = "listen: {grpc: '127.0.0.1:0', http: '0.0.0.0:0', metrics: anyone}\n";
    let sidecar = Sidecar::start_at(listen).await;
    let port = sidecar.addresses.http.rsplit(':').next().unwrap();
    let status = async |path: &str| http::get(format!("127.0.0.1:{port}"), path).await.0;
    assert_eq!((status("/metrics").await, status("/api/v1/pools").await), (200, 401));
}

#[tokio::test]
async fn the_unix_socket_can_grant_every_role() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listen = format!(
        "listen: {{grpc: '127.0.0.1:0', http: '127.0.0.1:0', grpc_socket: '{}', grpc_socket_roles: [admin]}}\n\
         quotas: [{{name: credit, counts: tokens, kind: prepaid}}]\n",
        path.display()
    );
    let sidecar = Sidecar::start_at(&listen).await;
    let channel = Endpoint::from_shared(format!("unix:{}", path.display())).unwrap().connect().await.unwrap();
    let mut admin = evenkeel_proto::v1::admin_client::AdminClient::new(channel.clone());
    admin.set_quota(set_quota("credit", "a", 1)).await.unwrap();
    let changes = admin.list_changes(evenkeel_proto::v1::ListChangesRequest::default()).await.unwrap();
    assert_eq!(changes.into_inner().changes[0].who, "unix socket");
    assert_eq!(admits(channel, "h", 1).await.unwrap_err().code(), Code::Unauthenticated);
    // The same sidecar lets gateways in over loopback, but no administrators.
    let over_tcp = client(&sidecar).await.set_quota(set_quota("credit", "a", 1)).await.unwrap_err();
    assert_eq!(over_tcp.code(), Code::PermissionDenied);
}

/// A listener without TLS beside one with TLS.
#[tokio::test]
async fn tls_can_be_on_one_listener() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let tls = TLS.replace("ca.crt}", "ca.crt, listeners: [grpc]}");
    let config = write(directory.path(), &authority, &format!("{tls}{CERTIFICATES}"));
    let sidecar = run(config).await;
    assert!(sidecar.addresses.grpc_tls && !sidecar.addresses.http_tls);
    assert_eq!(http::get(&sidecar.addresses.http, "/healthz").await.0, 200);
    let client = authority.sign(&["ops.example"]);
    let channel = endpoint(&sidecar, &authority.pem, Some(&client)).connect().await.unwrap();
    assert_eq!(list_pools(channel).await.unwrap(), 1);
}
