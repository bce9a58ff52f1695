//! Messages that announce much, that are much, and that take more memory than bytes.

use futures::{StreamExt as _, stream::FuturesUnordered};

use super::*;

const MIB: usize = 1024 * 1024;
/// What all attacks of this file together may cost: the budget of messages, and what an allocator keeps.
const GROWTH_MAX: u64 = 128 * MIB as u64;

/// Sends requests on several connections, each with 200 streams, and leaves them open.
async fn attack(
    fort: &Fort,
    connections: usize,
    request: impl Fn() -> Request<Body>,
) -> Vec<SendRequest<Body>> {
    let mut senders = Vec::new();
    for _ in 0..connections {
        let mut sender = connect(&fort.grpc).await;
        for _ in 0..200 {
            sender.ready().await.unwrap();
            let response = sender.send_request(request());
            tokio::spawn(response);
        }
        senders.push(sender);
    }
    senders
}

#[tokio::test]
async fn announced_bytes_take_no_memory() {
    let fort = Fort::start("", None).await;
    let before = fort.process.resident();
    let mut kept = Vec::new();
    for (method, announced) in [
        ("evenkeel.v1.Gateway/Admit", 16 * MIB),
        ("evenkeel.v1.Gateway/Admit", 256 * 1024),
        ("evenkeel.v1.Gateway/KeepAlive", 4 * MIB),
        ("evenkeel.v1.Gateway/Connect", 4 * MIB),
        ("envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit", 256 * 1024),
        ("evenkeel.v1.Inspect/ListPools", 256 * 1024),
        ("grpc.health.v1.Health/Check", 256 * 1024),
    ] {
        kept.extend(attack(&fort, 7, || unfinished(method, message(announced, 75))).await);
        fort.serves(1).await;
        let growth = fort.process.resident().saturating_sub(before);
        assert!(growth < GROWTH_MAX, "{method} {announced}: {} MiB", growth / MIB as u64);
    }
    assert!(fort.metric("evenkeel_requests_refused_total{reason=\"too_large\"}").await >= 1400.0);
}

#[tokio::test]
async fn too_large_a_message_is_refused_by_its_announcement() {
    let fort = Fort::start("", None).await;
    let mut sender = connect(&fort.grpc).await;
    for (method, max) in
        [("Admit", 256 * 1024), ("Settle", 256 * 1024), ("KeepAlive", 4 * MIB), ("Connect", 4 * MIB)]
    {
        let request = unfinished(&format!("evenkeel.v1.Gateway/{method}"), message(max + 1, 10));
        let response = sender.send_request(request).await.unwrap();
        let expected = format!("message of {method}: must be at most {max} bytes, got {}", max + 1);
        let (code, text) = status(&response);
        assert_eq!(
            (code.as_str(), text.replace("%20", " ").replace("%2C", ",").replace("%3A", ":")),
            ("8", expected)
        );
    }
}

/// All streams send all their bytes but the last.
#[tokio::test]
async fn bytes_that_have_arrived_are_bounded() {
    let fort = Fort::start("", None).await;
    let before = fort.process.resident();
    let sent = Bytes::from(message(256 * 1024, 255 * 1024));
    let mut senders = Vec::new();
    let mut responses = FuturesUnordered::new();
    for _ in 0..4 {
        let mut sender = connect(&fort.grpc).await;
        for _ in 0..190 {
            sender.ready().await.unwrap();
            responses.push(sender.send_request(unfinished("evenkeel.v1.Gateway/Admit", sent.clone())));
        }
        senders.push(sender);
    }
    // 760 messages of 256 KiB do not fit.
    let first = responses.next().await.unwrap().unwrap();
    assert_eq!(status(&first).0, "8", "{first:?}");
    fort.serves(1).await;
    let growth = fort.process.resident().saturating_sub(before);
    assert!(growth < GROWTH_MAX, "{} MiB", growth / MIB as u64);
    assert!(fort.metric("evenkeel_request_memory_bytes").await <= 64.0 * MIB as f64);
    assert!(fort.metric("evenkeel_requests_refused_total{reason=\"memory\"}").await >= 1.0);
    drop((senders, responses));
    eventually(Duration::from_secs(20), "all memory is given back", || async {
        let bytes = fort.metric("evenkeel_request_memory_bytes").await;
        if bytes == 0.0 { Ok(()) } else { Err(bytes.to_string()) }
    })
    .await;
}

/// A repeated message of two bytes takes hundreds of bytes when it is decoded.
#[tokio::test]
async fn many_empty_parts_are_refused_before_they_are_decoded() {
    let fort = Fort::start("", None).await;
    let before = fort.process.resident();
    // Encoded by hand: `pools` of a list, `settlements` of a message, and a message with such a list.
    let (list, settlements) = ([0x1a, 0].repeat(2_000_000), [0x12, 0].repeat(2_000_000));
    let mut nested = vec![0x3a];
    prost::encoding::encode_varint(list.len() as u64, &mut nested);
    nested.extend(&list);
    let mut sender = connect(&fort.grpc).await;
    for (method, content) in [("KeepAlive", list), ("Connect", settlements), ("Connect", nested)] {
        let mut bytes = vec![0];
        bytes.extend((content.len() as u32).to_be_bytes());
        bytes.extend(content);
        let response = sender.send_request(unfinished(&format!("evenkeel.v1.Gateway/{method}"), bytes)).await;
        assert_eq!(status(&response.unwrap()).0, "8", "{method}");
    }
    let growth = fort.process.resident().saturating_sub(before);
    assert!(growth < GROWTH_MAX, "{} MiB", growth / MIB as u64);
    assert_eq!(fort.metric("evenkeel_requests_refused_total{reason=\"too_many_parts\"}").await, 3.0);
}

/// A message must arrive in time, and so must the end of a unary request.
#[tokio::test]
async fn a_slow_message_is_refused() {
    let fort = Fort::start("", None).await;
    let mut sender = connect(&fort.grpc).await;
    let partial = sender.send_request(unfinished("evenkeel.v1.Gateway/Admit", message(1000, 10)));
    sender.ready().await.unwrap();
    let endless = sender.send_request(unfinished("evenkeel.v1.Inspect/ListPools", vec![0; 5]));
    sender.ready().await.unwrap();
    let none = sender.send_request(unfinished("evenkeel.v1.Inspect/Watch", Bytes::new()));
    let (partial, endless, none) = tokio::join!(partial, endless, none);
    for response in [partial, endless, none] {
        let (code, text) = status(&response.unwrap());
        assert_eq!(code, "4", "{text}");
    }
    assert_eq!(fort.metric("evenkeel_requests_refused_total{reason=\"late\"}").await, 3.0);
}

/// A client that grants no window leaves its responses in the sidecar.
#[tokio::test]
async fn responses_that_are_not_read_are_bounded() {
    let fort = Fort::start("", None).await;
    let socket = TcpStream::connect(&fort.grpc).await.unwrap();
    let mut client = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    client.initial_stream_window_size(0);
    let (mut sender, connection) = client.handshake(TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    let mut responses = Vec::new();
    let refused = loop {
        sender.ready().await.unwrap();
        let mut list =
            Request::post("http://x/evenkeel.v1.Inspect/ListPools").body(Body::from(vec![0; 5])).unwrap();
        list.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        let response: Response<Incoming> = sender.send_request(list).await.unwrap();
        match status(&response) {
            (code, _) if code.is_empty() => responses.push(response),
            refused => break refused,
        }
    };
    assert_eq!((responses.len(), refused.0.as_str()), (64, "8"), "{refused:?}");
    fort.serves(1).await;
}
