//! More connections than the sidecar may have open, in all states in which a connection costs its client nothing.

use tokio::io::AsyncWriteExt as _;

use super::*;

/// Opens connections that send some bytes and nothing more. Some are closed meanwhile.
async fn silent(address: &str, count: usize, bytes: &[u8]) -> Vec<TcpStream> {
    let mut sockets = Vec::new();
    for _ in 0..count {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let _ = socket.write_all(bytes).await;
        sockets.push(socket);
    }
    sockets
}

#[tokio::test]
async fn connections_without_a_request_keep_nobody_out() {
    let fort = Fort::start("limits: [{name: a, counts: requests, amount: 1000, per: 1m}]\n", Some(512)).await;
    let mut kept = silent(&fort.http, 600, b"GET / HTTP/1.1\r\nhost: loc").await;
    fort.serves(1).await;
    kept.extend(silent(&fort.grpc, 600, b"").await);
    fort.serves(2).await;
    kept.extend(silent(&fort.grpc, 600, b"PRI * HTTP/2.0\r\n\r\n").await);
    fort.serves(3).await;
    kept.extend(silent(&fort.grpc, 300, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await);
    fort.serves(4).await;

    // A change of the configuration needs open files as well.
    let path = fort.directory.path().join("evenkeel.yaml");
    let before = fort.metric("evenkeel_limits_revision").await;
    let yaml = std::fs::read_to_string(&path).unwrap().replace("1000", "2000");
    std::fs::write(&path, yaml).unwrap();
    eventually(Duration::from_secs(20), "the new limits apply", || async {
        let now = fort.metric("evenkeel_limits_revision").await;
        if now == before { Err(now.to_string()) } else { Ok(()) }
    })
    .await;
    for listener in ["grpc", "http"] {
        let replaced =
            format!("evenkeel_connections_closed_total{{listener=\"{listener}\",reason=\"replaced\"}}");
        assert!(fort.metric(&replaced).await > 0.0, "{listener}");
    }
    let log = std::fs::read_to_string(fort.directory.path().join("log")).unwrap();
    assert!(log.contains("the limit of open files is too small"), "{log}");
    assert!(fort.metric("process_open_fds").await < 512.0 - 100.0);
    drop(kept);
}

/// Clients that have used their connections lose them only after clients that have not.
#[tokio::test]
async fn a_stream_in_use_keeps_its_connection() {
    let fort = Fort::start("", Some(256)).await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", fort.grpc)).unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.connect().await.unwrap());
    let request = tonic_health::pb::HealthCheckRequest::default();
    let mut watch = health.watch(request).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 1);
    let events = http::open(&fort.http, "/api/v1/watch").await;
    let kept = silent(&fort.grpc, 300, b"").await;
    let heads = silent(&fort.http, 300, b"GET").await;
    fort.serves(1).await;
    let pending = tokio::time::timeout(Duration::from_millis(100), watch.message());
    assert!(pending.await.is_err(), "the watch continues");
    let mut events = events.into_body().into_data_stream();
    let first = tokio::time::timeout(Duration::from_secs(5), events.next()).await;
    assert!(first.is_ok_and(|event| event.is_some_and(|event| event.is_ok())), "the events continue");
    drop((kept, heads));
}

#[tokio::test]
async fn health_watches_are_bounded() {
    let fort = Fort::start("", None).await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", fort.grpc)).unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.connect().await.unwrap());
    let mut watches = Vec::new();
    let refused = loop {
        match health.watch(tonic_health::pb::HealthCheckRequest::default()).await {
            Ok(watch) => watches.push(watch),
            Err(status) => break status,
        }
    };
    assert_eq!((watches.len(), refused.code()), (64, tonic::Code::ResourceExhausted), "{refused}");
    health.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap();
}

/// A client that asks for much and reads nothing loses its connection, and what waits for it takes bounded memory.
#[tokio::test]
async fn responses_that_nobody_reads_are_bounded() {
    let endpoint =
        |pool: usize, n: usize| format!("{{address: 'endpoint-{pool}-{n}-{}:8000'}}", "x".repeat(200));
    let pool = |pool: usize| {
        let endpoints: Vec<String> = (0..500).map(|n| endpoint(pool, n)).collect();
        format!("  - {{cluster: c{pool}, endpoints: [{}]}}\n", endpoints.join(", "))
    };
    let fort = Fort::start(&format!("pools:\n{}", (0..4).map(pool).collect::<String>()), None).await;
    let before = fort.process.resident();
    // The system's buffers take the first responses of a connection, and the sidecar keeps the next one.
    let requests = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(8);
    let kept = silent(&fort.http, 48, &requests).await;
    eventually(Duration::from_secs(180), "responses are refused", || async {
        let (status, text) = http::get(&fort.http, "/metrics").await;
        if status == 503 { Ok(()) } else { Err(format!("{} bytes", text.len())) }
    })
    .await;
    fort.serves(1).await;
    let growth = fort.process.resident().saturating_sub(before);
    assert!(growth < 128 << 20, "{} MiB", growth >> 20);
    drop(kept);
    eventually(Duration::from_secs(20), "the memory is given back", || async {
        let (status, text) = http::get(&fort.http, "/metrics").await;
        if status == 200 { Ok(()) } else { Err(text) }
    })
    .await;
}
