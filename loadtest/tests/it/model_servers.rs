//! What requests to other model servers than the mock are charged: a server replays recorded responses through a gateway
//! with the plugin, and the ledger shows the charge.

use std::{sync::Arc, time::Duration};

use evenkeel_loadtest::lab::{
    CLUSTER, CustomEnvoy, Lab, OVERRIDE_HOST_HEADER,
    bootstrap::{address, cluster, router, sidecar_cluster, wasm_filter},
    paths,
};
use evenkeel_proto::v1 as pb;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::{
    admin,
    lab::{self, fast_engine},
    wait::within,
};

const LIMIT: Duration = Duration::from_secs(20);
/// Tokens of the prompt of every request, and its expected output, which the sidecar assumes for an unknown model.
const PROMPT_TOKENS: u64 = 10;
const EXPECTED_OUTPUT: u64 = 512;

/// A response to replay, and what it must cost.
struct Recorded {
    consumer: &'static str,
    status: &'static str,
    headers: &'static str,
    body: Vec<u8>,
    /// Input and output tokens, and whether they are estimated.
    charge: (u64, u64, bool),
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(paths::workspace().join("plugin/tests/fixtures").join(name)).unwrap()
}

fn recorded() -> Vec<Recorded> {
    let recorded = |consumer, headers, body: Vec<u8>, charge| Recorded {
        consumer,
        status: "200 OK",
        headers,
        body,
        charge,
    };
    let json = "content-type: application/json\r\n";
    let events = "content-type: text/event-stream\r\n";
    let start = r#"{"type":"message_start","message":{"usage":{"input_tokens":9,"output_tokens":1}}}"#;
    let text = "x".repeat(800);
    let delta =
        format!(r#"{{"type":"content_block_delta","delta":{{"type":"text_delta","text":"{text}"}}}}"#);
    let error = r#"{"type":"error","error":{"type":"overloaded_error"}}"#;
    let failed = format!(
        "data: {start}\n\n{}event: error\ndata: {error}\n\n",
        format!("data: {delta}\n\n").repeat(10)
    );
    let unknown_failed = format!("data: {{\"answer\":\"hi\"}}\n\ndata: {error}\n\n");
    let snapshots = [
        r#"{"type":"message_start","message":{"usage":{"input_tokens":8834,"output_tokens":0}}}"#,
        r#"{"type":"message_delta","usage":{"input_tokens":18,"output_tokens":426,"cache_read_input_tokens":8831}}"#,
        r#"{"type":"message_stop"}"#,
    ];
    let snapshots: String = snapshots.iter().map(|event| format!("data: {event}\n\n")).collect();
    let zeros = r#"{"choices":[{"message":{"content":"0123456789012345678901234567890123456789"}}],"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}"#;
    let total = r#"{"choices":[{"message":{"content":"0123456789012345678901234567890123456789"}}],"usage":{"total_tokens":100}}"#;
    vec![
        recorded("cohere", json, fixture("cohere.json"), (71, 418, false)),
        recorded("cohere-v1", "content-type: text/plain\r\n", fixture("cohere-v1.ndjson"), (68, 2, false)),
        recorded("converse", json, fixture("bedrock-converse.json"), (230, 628, false)),
        recorded(
            "converse-stream",
            "content-type: application/vnd.amazon.eventstream\r\n",
            fixture("bedrock-converse.bin"),
            (230, 628, false),
        ),
        recorded("invoke-stream", "", fixture("bedrock-invoke.bin"), (118, 40, false)),
        recorded(
            "untyped",
            "content-type: application/octet-stream\r\n",
            fixture("openai-chat.sse"),
            (19, 10, false),
        ),
        // 24 bytes of text.
        recorded("triton", json, fixture("triton-generate.json"), (PROMPT_TOKENS, 6, true)),
        recorded("failed", events, failed.into_bytes(), (9, 2000, true)),
        recorded("error", json, br#"{"error":{"message":"overloaded"}}"#.to_vec(), (0, 0, false)),
        recorded("unknown", json, br#"{"answer":"hi"}"#.to_vec(), (PROMPT_TOKENS, EXPECTED_OUTPUT, true)),
        recorded("snapshots", events, snapshots.into_bytes(), (8849, 426, false)),
        recorded(
            "unknown-failed",
            events,
            unknown_failed.into_bytes(),
            (PROMPT_TOKENS, EXPECTED_OUTPUT, true),
        ),
        recorded("zeros", json, zeros.into(), (PROMPT_TOKENS, 10, true)),
        recorded("total", json, total.into(), (90, 10, true)),
        Recorded {
            consumer: "realtime",
            status: "101 Switching Protocols",
            headers: "upgrade: websocket\r\nconnection: upgrade\r\n",
            body: fixture("realtime.ws"),
            charge: (270, 80, false),
        },
    ]
}

/// Replays the response for the consumer that a request names, and closes the connection.
async fn serve(listener: TcpListener, recorded: Arc<Vec<Recorded>>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let recorded = Arc::clone(&recorded);
        tokio::spawn(async move {
            let mut request = Vec::new();
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0, "the request is incomplete");
            }
            let request = String::from_utf8_lossy(&request).into_owned();
            let named = |response: &&Recorded| {
                request.contains(&format!("x-mse-consumer: {}\r\n", response.consumer))
            };
            let Recorded { status, headers, body, .. } = recorded.iter().find(named).unwrap();
            let end = if status.starts_with("101") { "" } else { "connection: close\r\n" };
            let head = format!("HTTP/1.1 {status}\r\n{headers}{end}\r\n");
            stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
            stream.shutdown().await.unwrap();
            // Without this, unread bytes of the request would reset the connection.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        });
    }
}

fn connection_manager(module: &std::path::Path) -> Value {
    let plugin = json!({
        "sidecar": {"cluster": "evenkeel"},
        "deadline_ms": 10_000,
        "on_error": "closed",
        "read_body": true,
        "apply": {"mode": "override_host", "header": OVERRIDE_HOST_HEADER},
    });
    json!({
        "stat_prefix": "edge",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {"name": "edge", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{
            "name": "chat",
            "match": {"prefix": "/"},
            "route": {"cluster": CLUSTER, "timeout": "0s", "idle_timeout": "0s"},
        }]}]},
        "http_filters": [wasm_filter("evenkeel", module, &plugin), router()],
    })
}

/// Sends a request and reads the response to its end.
async fn send(url: &str, response: &Recorded) {
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
    let consumer = response.consumer;
    let request = if response.status.starts_with("101") {
        format!(
            "GET /v1/realtime HTTP/1.1\r\nhost: a\r\nx-mse-consumer: {consumer}\r\nconnection: upgrade\r\n\
             upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             sec-websocket-extensions: permessage-deflate\r\n\r\n"
        )
    } else {
        // Each request has a model of its own, so that it does not depend on what the sidecar learned from others.
        let prompt = format!(
            r#"{{"model":"{consumer}","messages":[{{"role":"user","content":"{}"}}]}}"#,
            "0123456789".repeat(4)
        );
        let len = prompt.len();
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx-mse-consumer: {consumer}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {len}\r\n\r\n{prompt}"
        )
    };
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).await.unwrap();
    let status = response.status.split(' ').next().unwrap();
    assert!(
        received.starts_with(format!("HTTP/1.1 {status}").as_bytes()),
        "{consumer}: {}",
        received.escape_ascii()
    );
}

#[tokio::test]
async fn responses_of_every_model_server_are_charged() {
    let builder = Lab::builder().hosts(1).envoys(0).sidecars(1).engine(fast_engine());
    let Some(lab) = lab::start(builder.redis().sidecar_yaml(&admin::config())).await else { return };
    let Some(module) = lab::found(paths::plugin()) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let recorded = Arc::new(recorded());
    let server = tokio::spawn(serve(listener, Arc::clone(&recorded)));
    let clusters = [cluster(CLUSTER, &address(port)), sidecar_cluster(lab.sidecars()[0].socket())];
    let envoy =
        CustomEnvoy::start(lab.dir(), "envoy-models", 1, [connection_manager(&module)], &clusters).await;
    let Some(envoy) = lab::found(envoy) else { return };
    for response in recorded.iter() {
        send(&envoy.urls()[0], response).await;
    }
    let admin = admin::admin(&lab, 0).await.unwrap();
    for Recorded { consumer, charge, .. } in recorded.iter() {
        let request =
            pb::QueryUsageRequest { consumer: (*consumer).into(), ..pb::QueryUsageRequest::default() };
        within(LIMIT, &format!("{consumer} is charged {charge:?}"), || {
            let (mut admin, request) = (admin.clone(), request.clone());
            async move {
                let usage = admin.query_usage(request).await.map_err(|e| e.to_string())?.into_inner();
                let usage = usage.total.unwrap_or_default();
                let tokens = usage.tokens.unwrap_or_default();
                let found = (tokens.input, tokens.output, usage.estimated > 0);
                if usage.requests == 1 && found == *charge { Ok(()) } else { Err(format!("{usage:?}")) }
            }
        })
        .await;
    }
    server.abort();
}
