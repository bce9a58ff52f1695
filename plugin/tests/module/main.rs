//! Tests of the built modules: their imports, their size, and one request through each module.

// The gateway below is test code outside test functions.
#![allow(clippy::unwrap_used)]

mod gateway;
mod modules;

use std::collections::BTreeSet;

use evenkeel_proto::v1::{
    AdmitAnswer, AdmitResponse, Admitted, Basis, KeepAliveResponse, Outcome, ToWorker, Welcome, admit_answer,
    admit_response,
};
use gateway::{Gateway, State};
use wasmi::{Engine, Module};

/// Size limit of a module, because every gateway worker stores a compiled copy.
const BYTES_MAX: usize = 450 * 1024;

/// Host calls of proxy-wasm 0.2.1, which every gateway provides.
const PROXY_WASM: &str = "
    add_header_map_value call_foreign_function clear_route_cache close_stream continue_stream define_metric
    dequeue_shared_queue done enqueue_shared_queue get_buffer_bytes get_buffer_status get_configuration
    get_current_time_nanoseconds get_header_map_pairs get_header_map_size get_header_map_value get_log_level
    get_metric get_property get_shared_data get_status grpc_call grpc_cancel grpc_close grpc_send grpc_stream
    http_call increment_metric log record_metric register_shared_queue remove_header_map_value
    replace_header_map_value resolve_shared_queue send_local_response set_buffer_bytes set_effective_context
    set_header_map_pairs set_property set_shared_data set_tick_period_milliseconds";

/// The part of WASI that Envoy provides.
const WASI: &str = "
    args_get args_sizes_get clock_time_get environ_get environ_sizes_get fd_close fd_fdstat_get fd_read fd_seek
    fd_write proc_exit random_get sched_yield";

/// Host calls that only Higress has.
const HIGRESS: [&str; 2] = ["env.proxy_get_upstream_hosts", "env.proxy_set_upstream_override_host"];

const ROOT: u32 = 1;
const STREAM: u32 = 2;

fn imports(module: &[u8]) -> BTreeSet<String> {
    let module = Module::new(&Engine::default(), module).unwrap();
    module.imports().map(|import| format!("{}.{}", import.module(), import.name())).collect()
}

fn known() -> BTreeSet<String> {
    let proxy_wasm = PROXY_WASM.split_whitespace().map(|name| format!("env.proxy_{name}"));
    let wasi = WASI.split_whitespace().map(|name| format!("wasi_snapshot_preview1.{name}"));
    proxy_wasm.chain(wasi).collect()
}

#[test]
fn the_general_module_is_small_and_imports_only_common_host_calls() {
    let module = modules::general();
    let unknown: Vec<_> = imports(&module).difference(&known()).cloned().collect();
    assert!(unknown.is_empty(), "unknown to Envoy: {unknown:?}");
    assert!(module.len() < BYTES_MAX, "{} bytes", module.len());
}

#[test]
fn the_higress_module_is_small_and_adds_only_higresss_host_calls() {
    let module = modules::higress();
    let more: Vec<_> = imports(&module).difference(&known()).cloned().collect();
    assert_eq!(more, HIGRESS);
    assert!(module.len() < BYTES_MAX, "{} bytes", module.len());
}

#[test]
fn the_higress_module_handles_a_request() {
    let mut gateway = Gateway::start(&modules::higress(), higress());
    gateway.callback("proxy_on_context_create", ROOT, &[0]);
    assert_eq!(gateway.callback("proxy_on_vm_start", ROOT, &[0]), 1);
    let bytes = gateway.state().configuration.len() as u32;
    assert_eq!(gateway.callback("proxy_on_configure", ROOT, &[bytes]), 1, "{:?}", gateway.state().logs);
    assert_ne!(gateway.state().tick_ms, 0);

    gateway.callback("proxy_on_context_create", STREAM, &[ROOT]);
    assert_eq!(gateway.callback("proxy_on_request_headers", STREAM, &[3, 1]), 1, "paused");
    assert!(gateway.state().opened.is_empty(), "only the root context opens the stream");
    let admit = connect(&mut gateway);
    let stream = gateway.state().opened[0].clone();
    assert_eq!(stream.target, b"\n\x06\n\x04side", "a GrpcService message naming the cluster");
    assert_eq!((&*stream.service, &*stream.method, stream.context), ("evenkeel.v1.Gateway", "Connect", ROOT));
    let hello = gateway.sent()[0].hello.clone().unwrap();
    assert!(
        hello.holder.len() == 22
            && hello.holder.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    );
    assert_ne!(hello.secret, [0; 16]);
    let candidates: Vec<_> = admit.candidates.iter().map(|c| c.address.as_str()).collect();
    assert_eq!(candidates, ["10.0.0.1:80", "10.0.0.3:80"], "only healthy hosts");
    assert_eq!(admit.pool.unwrap().cluster, "outbound|80||llm.dns");
    assert_eq!(admit.subject.unwrap().consumer, "alice");
    let admitted =
        Admitted { endpoint: "10.0.0.3:80".into(), basis: Basis::Shared.into(), ..Admitted::default() };
    gateway.say(&answer(admit.lease, admitted));
    assert_eq!(gateway.state().overridden, [(STREAM, "10.0.0.3:80".to_owned())]);
    assert_eq!(gateway.state().resumed, [STREAM]);
    assert_eq!(gateway.state().properties["clear_route_cache"], b"off", "the route is kept");

    gateway.end_stream(14);
    assert_eq!(gateway.state().closed, [2], "an ended stream is released");
    gateway.callback("proxy_on_tick", ROOT, &[]);
    assert_eq!(gateway.sent().pop().unwrap().hello.unwrap().secret, b"secret");
    gateway.say(&welcome());
    let list = gateway.sent().pop().unwrap().leases.unwrap();
    assert_eq!(list.issued_through, 1);
    assert_eq!(
        (&list.pools[0].leases[..], &list.pools[0].endpoints[..]),
        (&[1][..], &["10.0.0.3:80".to_owned()][..])
    );
    let repaired = KeepAliveResponse { interval_ms: 2000, ..KeepAliveResponse::default() };
    gateway.say(&ToWorker { repaired: Some(repaired), ..ToWorker::default() });

    let state = gateway.store.data_mut();
    state.now_ns += 9_000_000;
    state.properties.insert("upstream.address".into(), b"10.0.0.3:80".to_vec());
    state.properties.insert("response.code".into(), 404_u64.to_le_bytes().to_vec());
    gateway.callback("proxy_on_response_headers", STREAM, &[1, 1]);
    gateway.callback("proxy_on_log", STREAM, &[]);
    gateway.callback("proxy_on_tick", ROOT, &[]);
    let settle = gateway.sent().pop().unwrap().settlements[0].clone();
    assert_eq!((settle.lease, settle.status, settle.total_ms), (1, 404, 9));
    assert_eq!(settle.outcome(), Outcome::ClientError);

    gateway.callback("proxy_on_done", STREAM, &[]);
    gateway.callback("proxy_on_delete", STREAM, &[]);
    gateway.callback("proxy_on_tick", ROOT, &[]);
    assert_eq!(gateway.sent().iter().map(|message| message.settlements.len()).sum::<usize>(), 1);
    assert_eq!(gateway.callback("proxy_on_done", ROOT, &[]), 0, "waits for the answer to goodbye");
    assert!(gateway.sent().pop().unwrap().goodbye && !gateway.state().is_done);
    gateway.end_stream(0);
    assert!(gateway.state().is_done);
    assert!(gateway.state().metrics.contains(&("evenkeel_admits_shared".into(), 1)));
}

#[test]
fn a_stream_through_the_general_module_reports_its_usage() {
    let headers =
        [(":method", "POST"), (":path", "/v1/chat/completions"), ("content-type", "application/json")];
    let body = br#"{"model":"gpt-4o-mini","stream":true,"messages":[{"content":"hi"}]}"#;
    let state = State {
        configuration: br#"{"read_body":true,"include_usage":true}"#.to_vec(),
        request_headers: headers.map(|(name, value)| (name.into(), value.into())).into(),
        request_body: body.to_vec(),
        ..higress()
    };
    let mut gateway = Gateway::start(&modules::general(), state);
    gateway.callback("proxy_on_context_create", ROOT, &[0]);
    assert_eq!(gateway.callback("proxy_on_configure", ROOT, &[1]), 1, "{:?}", gateway.state().logs);
    gateway.callback("proxy_on_context_create", STREAM, &[ROOT]);
    gateway.callback("proxy_on_request_headers", STREAM, &[3, 0]);
    gateway.callback("proxy_on_request_body", STREAM, &[body.len() as u32, 1]);
    let sent = String::from_utf8(gateway.state().request_body.clone()).unwrap();
    assert!(sent.starts_with(r#"{"stream_options":{"include_usage":true},"model":"gpt-4o-mini","#), "{sent}");
    let admit = connect(&mut gateway);
    assert_eq!((admit.model.as_str(), admit.prompt_bytes), ("gpt-4o-mini", 2));
    let admitted = Admitted { endpoint: "a:1".into(), ..Admitted::default() };
    gateway.say(&answer(admit.lease, admitted));

    let state = gateway.store.data_mut();
    state.response_headers =
        [(":status", "200"), ("content-type", "text/event-stream")].map(|(n, v)| (n.into(), v.into())).into();
    state.properties.insert("upstream.address".into(), b"a:1".to_vec());
    state.properties.insert("response.code".into(), 200_u64.to_le_bytes().to_vec());
    gateway.callback("proxy_on_response_headers", STREAM, &[2, 0]);
    let mut seen = Vec::new();
    for chunk in include_bytes!("../fixtures/openai-chat.sse").chunks(61) {
        gateway.store.data_mut().response_body = chunk.to_vec();
        let bytes = chunk.len() as u32;
        assert_eq!(gateway.callback("proxy_on_response_body", STREAM, &[bytes, 0]), 0, "passes");
        seen.append(&mut gateway.store.data_mut().response_body);
    }
    gateway.callback("proxy_on_response_body", STREAM, &[0, 1]);
    let seen = String::from_utf8(seen).unwrap();
    assert!(seen.ends_with("data: [DONE]\n\n") && !seen.contains("usage"), "{seen}");

    gateway.callback("proxy_on_log", STREAM, &[]);
    gateway.callback("proxy_on_tick", ROOT, &[]);
    let settle = gateway.sent().pop().unwrap().settlements[0].clone();
    let tokens = settle.tokens.unwrap();
    assert_eq!((tokens.input, tokens.cached_input, tokens.output), (19, 4, 10));
    assert_eq!((settle.tokens_final, settle.output_bytes), (true, 16));
    assert!(gateway.state().metrics.contains(&("evenkeel_usage_requested".into(), 1)));
}

#[test]
fn an_invalid_configuration_is_rejected_with_every_fault() {
    let state = State { configuration: br#"{"deadline_ms":0,"typo":1}"#.to_vec(), ..higress() };
    let mut gateway = Gateway::start(&modules::higress(), state);
    gateway.callback("proxy_on_context_create", ROOT, &[0]);
    assert_eq!(gateway.callback("proxy_on_configure", ROOT, &[1]), 0);
    let logs = gateway.state().logs.join("\n");
    assert!(logs.contains("deadline_ms: must be") && logs.contains("typo: unknown field"), "{logs}");
}

fn welcome() -> ToWorker {
    let welcome = Welcome { secret: b"secret".to_vec(), ..Welcome::default() };
    ToWorker { welcome: Some(welcome), ..ToWorker::default() }
}

/// Makes the stream ready, and returns the Admit that waited for it.
fn connect(gateway: &mut Gateway) -> evenkeel_proto::v1::AdmitRequest {
    gateway.callback("proxy_on_tick", ROOT, &[]);
    gateway.say(&welcome());
    gateway.sent().pop().unwrap().admit.unwrap()
}

fn answer(lease: u64, admitted: Admitted) -> ToWorker {
    let response = AdmitResponse { answer: Some(admit_response::Answer::Admitted(admitted)) };
    let answer = AdmitAnswer { lease, answer: Some(admit_answer::Answer::Response(response)) };
    ToWorker { answers: vec![answer], ..ToWorker::default() }
}

/// Returns a Higress gateway with three hosts, one of them unhealthy.
fn higress() -> State {
    let about = |health: &str| format!(r#"{{"health_status":"{health}"}}"#);
    let hosts = [("10.0.0.1:80", "Healthy"), ("10.0.0.2:80", "Unhealthy"), ("10.0.0.3:80", "Healthy")];
    let headers = [(":method", "GET"), (":path", "/v1/models"), ("x-mse-consumer", "alice")];
    let properties: [(&str, &[u8]); 3] = [
        ("route_name", b"chat"),
        ("cluster_name", b"outbound|80||llm.dns"),
        ("source.address", b"192.0.2.7:1"),
    ];
    State {
        configuration: br#"{"sidecar":{"cluster":"side"},"deadline_ms":25,"apply":{"mode":"higress"}}"#
            .to_vec(),
        properties: properties.map(|(path, value)| (path.into(), value.to_vec())).into(),
        request_headers: headers.map(|(name, value)| (name.into(), value.into())).into(),
        upstream_hosts: hosts.map(|(address, health)| (address.into(), about(health))).into(),
        now_ns: 1_000_000_000,
        ..State::default()
    }
}

/// Higress buffers 32 KiB of a body, unless a plugin sets another limit.
#[test]
fn the_higress_module_lets_the_gateway_hold_a_body() {
    let mut state = higress();
    state.configuration = br#"{"apply":{"mode":"higress"},"read_body":true}"#.to_vec();
    state.request_headers.insert(":method".into(), "POST".into());
    state.request_headers.insert(":path".into(), "/v1/chat/completions".into());
    let mut gateway = Gateway::start(&modules::higress(), state);
    gateway.callback("proxy_on_context_create", ROOT, &[0]);
    assert_eq!(gateway.callback("proxy_on_configure", ROOT, &[1]), 1, "{:?}", gateway.state().logs);
    gateway.callback("proxy_on_context_create", STREAM, &[ROOT]);
    assert_eq!(gateway.callback("proxy_on_request_headers", STREAM, &[3, 0]), 1, "pauses");
    assert_eq!(gateway.state().properties["set_decoder_buffer_limit"], b"104857600");
}
