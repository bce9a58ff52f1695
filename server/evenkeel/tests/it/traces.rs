//! Traces as a collector receives them: one trace covers the gateway's span down to the call to the store. A collector
//! delays no request.

use std::{
    collections::HashMap,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use evenkeel_proto::{
    rate_limit_service::{
        RateLimitDescriptor, RateLimitRequest, rate_limit_descriptor::Entry,
        rate_limit_service_client::RateLimitServiceClient,
    },
    v1::{self as pb, admit_response::Answer},
};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use tonic::Request;

use crate::support::{
    collector::{Collector, attributes, code, hex, named, names},
    eventually,
    proxy::{Mode, Proxy},
    redis::Redis,
    refusing_port, requests,
    sidecar::Sidecar,
};

const LIMIT: Duration = Duration::from_secs(10);
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

/// Returns an Admit in the context of a gateway's span.
fn ask(lease: u64, traceparent: &str) -> pb::AdmitRequest {
    pb::AdmitRequest { traceparent: traceparent.to_owned(), ..requests::admit("llm", lease) }
}

const POOL: &str = "pools: [{cluster: llm, endpoints: [{address: a}]}]\n";
const LIMITS: &str = "limits: [{name: many, counts: tokens, amount: 1000000, per: 1d, key: [consumer]}]\n";

fn on_redis(redis: &Redis) -> String {
    redis.store(", timeout: 2s") + POOL + LIMITS
}

/// Waits until `/metrics` has this line.
async fn metric(sidecar: &Sidecar, line: &str) {
    eventually(LIMIT, line, || async {
        let (_, text) = sidecar.get("/metrics").await;
        let seen: Vec<&str> = text.lines().filter(|l| l.starts_with("evenkeel_trace")).collect();
        if seen.contains(&line) { Ok(()) } else { Err(seen.join("\n")) }
    })
    .await;
}

#[tokio::test]
async fn a_trace_covers_the_gateway_the_sidecar_and_redis() {
    let (redis, collector) = (Redis::start(), Collector::start().await);
    let traces = collector.yaml(", service_name: keel, headers: [{name: x-key, value: s3cret}]");
    let sidecar = Sidecar::start(&(on_redis(&redis) + &traces)).await;
    let request = pb::AdmitRequest {
        tracestate: "vendor=1".to_owned(),
        request_id: "r-1".to_owned(),
        model: "m".to_owned(),
        subject: Some(requests::subject("alice")),
        ..ask(7, &traceparent("01"))
    };
    let admitted = sidecar.admitted(request).await;
    let settle = pb::SettleRequest {
        ticket: admitted.ticket,
        traceparent: traceparent("01"),
        outcome: pb::Outcome::Success.into(),
        status: 200,
        ..requests::settle("llm", 7)
    };
    assert!(sidecar.end(settle).await);

    let spans = collector.spans(6).await;
    assert_eq!(spans.len(), 6, "{:?}", names(&spans));
    assert!(spans.iter().all(|span| hex(&span.trace_id) == TRACE));
    let (admit, settle) = (named(&spans, "evenkeel.admit"), named(&spans, "evenkeel.settle"));
    for request in [admit, settle] {
        assert_eq!((hex(&request.parent_span_id), request.kind()), (PARENT.to_owned(), SpanKind::Server));
        assert_eq!(request.flags, 0x301);
        let calls: Vec<&Span> = spans.iter().filter(|span| span.parent_span_id == request.span_id).collect();
        let mut called: Vec<&str> = calls.iter().map(|span| &*span.name).collect();
        called.sort_unstable();
        assert_eq!(called, ["evenkeel.store commit", "evenkeel.store count"]);
        for call in calls {
            assert!(request.start_time_unix_nano <= call.start_time_unix_nano);
            assert!(call.start_time_unix_nano <= call.end_time_unix_nano);
            assert!(call.end_time_unix_nano <= request.end_time_unix_nano);
            assert_eq!((call.kind(), code(call)), (SpanKind::Client, StatusCode::Unset));
            let values = attributes(call);
            assert_eq!(values["db.system.name"], "redis");
            assert_eq!(values["db.stored_procedure.name"], call.name.rsplit_once(' ').unwrap().1);
            assert_eq!(values["server.port"], redis.port.to_string());
            assert_eq!(values["evenkeel.store.operations"], "1");
            assert!(values["evenkeel.store.waited_us"].parse::<u64>().unwrap() < 10_000_000);
        }
    }
    assert_eq!((&*admit.trace_state, &*settle.trace_state), ("vendor=1", ""));
    let values = attributes(admit);
    let expected = [
        ("evenkeel.cluster", "llm"),
        ("evenkeel.holder", requests::HOLDER),
        ("evenkeel.lease", "7"),
        ("evenkeel.request_id", "r-1"),
        ("evenkeel.result", "admitted"),
        ("evenkeel.endpoint", "a"),
        ("evenkeel.basis", "shared"),
        ("evenkeel.limits", "1"),
        ("gen_ai.request.model", "m"),
    ];
    for (key, value) in expected {
        assert_eq!(values[key], value, "{key}");
    }
    assert!(!format!("{spans:?}").contains("alice"), "spans do not name the consumer");
    let values = attributes(settle);
    assert_eq!((&*values["evenkeel.outcome"], &*values["evenkeel.released"]), ("success", "true"));
    assert_eq!(collector.got.resource.lock()["service.name"], "keel");
    assert_eq!(collector.got.key.lock().as_deref(), Some("s3cret"));
    metric(&sidecar, "evenkeel_trace_spans_total{result=\"exported\"} 6").await;
}

#[tokio::test]
async fn only_requests_the_gateway_samples_are_recorded() {
    let collector = Collector::start().await;
    let sidecar = Sidecar::start(&collector.yaml("")).await;
    let offered = |lease, traceparent: &str| pb::AdmitRequest {
        candidates: vec![requests::candidate("a", 0.0, 0)],
        ..ask(lease, traceparent)
    };
    let not = [traceparent("00"), String::new(), "00-----01".to_owned(), traceparent("01").to_uppercase()];
    for (lease, traceparent) in (1..).zip(&not) {
        sidecar.send(offered(lease, traceparent)).await;
    }
    // Spans are exported in the order in which they are recorded. A span of an earlier request would come first.
    sidecar.send(offered(9, &traceparent("01"))).await;
    let spans = collector.spans(2).await;
    assert_eq!(names(&spans), ["evenkeel.admit", "evenkeel.store commit"]);
    assert_eq!(attributes(named(&spans, "evenkeel.admit"))["evenkeel.lease"], "9");
    let call = named(&spans, "evenkeel.store commit");
    assert_eq!((attributes(call)["db.system.name"].as_str(), call.kind()), ("memory", SpanKind::Internal));
}

/// Gateways pass no trace context here, neither from Admit to Settle nor from one sidecar to another.
#[tokio::test]
async fn every_sidecar_derives_the_same_trace_from_a_lease() {
    let (redis, collector) = (Redis::start(), Collector::start().await);
    let yaml = on_redis(&redis) + &collector.yaml(", sample_ratio: 1");
    let (one, other) = (Sidecar::start(&yaml).await, Sidecar::start(&yaml).await);
    one.lease("llm", "g", 1).await;
    assert!(other.settle("llm", "g", 1).await);
    one.lease("llm", "g", 2).await;
    let spans = collector.spans(6).await;
    let of_lease = |lease: &str, name: &str| {
        let is = |span: &&Span| span.name == name && attributes(span)["evenkeel.lease"] == lease;
        spans.iter().find(is).unwrap_or_else(|| panic!("{name} of {lease}: {:?}", names(&spans))).clone()
    };
    let (first, end) = (of_lease("1", "evenkeel.admit"), of_lease("1", "evenkeel.settle"));
    assert_eq!((first.parent_span_id.len(), &first.trace_id), (0, &end.trace_id));
    assert_eq!(end.parent_span_id, first.span_id);
    assert_ne!(of_lease("2", "evenkeel.admit").trace_id, first.trace_id);
    // `sample_ratio` does not apply to a request if the gateway has decided not to sample it.
    one.send(ask(3, &traceparent("00"))).await;
    one.send(ask(4, "")).await;
    let spans = collector.spans(8).await;
    let leases = spans.iter().filter(|span| span.name == "evenkeel.admit").map(|span| {
        let values = attributes(span);
        values["evenkeel.lease"].clone()
    });
    let mut leases: Vec<String> = leases.collect();
    leases.sort_unstable();
    assert_eq!(leases, ["1", "2", "4"]);
}

#[tokio::test]
async fn trace_context_in_the_metadata_is_the_fallback() {
    let (redis, collector) = (Redis::start(), Collector::start().await);
    let dir = tempfile::tempdir().unwrap();
    let limits = "domain: d\ndescriptors: [{key: k, rate_limit: {unit: year, requests_per_unit: 1}}]\n";
    std::fs::write(dir.path().join("limits.yaml"), limits).unwrap();
    let more = format!("rate_limit_service: {{config: '{}'}}\n", dir.path().display());
    let sidecar = Sidecar::start(&(on_redis(&redis) + &collector.yaml("") + &more)).await;

    let mut call = Request::new(ask(1, ""));
    call.metadata_mut().insert("traceparent", traceparent("01").parse().unwrap());
    sidecar.send(call).await;
    let spans = collector.spans(2).await;
    assert_eq!(hex(&named(&spans, "evenkeel.admit").parent_span_id), PARENT);

    let mut rls = RateLimitServiceClient::new(sidecar.channel().await);
    let entry = Entry { key: "k".into(), value: "v".into() };
    let descriptor = RateLimitDescriptor { entries: vec![entry], ..RateLimitDescriptor::default() };
    for _ in 0..2 {
        let descriptors = vec![descriptor.clone()];
        let mut call = Request::new(RateLimitRequest { domain: "d".into(), descriptors, hits_addend: 1 });
        call.metadata_mut().insert("traceparent", traceparent("01").parse().unwrap());
        rls.should_rate_limit(call).await.unwrap();
    }
    let spans = collector.spans(6).await;
    let asked: Vec<&Span> = spans.iter().filter(|span| span.name == "evenkeel.rate_limit").collect();
    let results: Vec<String> = asked.iter().map(|span| attributes(span)["evenkeel.result"].clone()).collect();
    assert_eq!(results, ["ok", "over_limit"]);
    for span in asked {
        assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.to_owned(), PARENT.to_owned()));
        assert_eq!(attributes(span)["evenkeel.domain"], "d");
        let calls = spans.iter().filter(|call| call.parent_span_id == span.span_id);
        assert!(calls.map(|call| &*call.name).eq(["evenkeel.store count"]));
    }
}

#[tokio::test]
async fn a_span_records_a_store_that_does_not_answer() {
    let (redis, collector) = (Redis::start(), Collector::start().await);
    let proxy = Proxy::start(redis.port).await;
    let yaml = proxy.store(", timeout: 100ms") + POOL + &collector.yaml("");
    let sidecar = Sidecar::start(&yaml).await;
    sidecar.lease("llm", "g", 1).await;
    proxy.set(Mode::Stall);
    sidecar.send(ask(2, &traceparent("01"))).await;
    let spans = collector.spans(3).await;
    let admit = named(&spans, "evenkeel.admit");
    assert_eq!(attributes(admit)["evenkeel.basis"], "local");
    let calls = spans.iter().filter(|span| span.name == "evenkeel.store commit");
    let systems: HashMap<String, &Span> =
        calls.map(|call| (attributes(call)["db.system.name"].clone(), call)).collect();
    let failed = systems["redis"];
    assert_eq!(code(failed), StatusCode::Error);
    assert_eq!(attributes(failed)["error.type"], "timeout");
    // The sidecar used its local knowledge instead.
    assert_eq!(code(systems["memory"]), StatusCode::Unset);
}

#[tokio::test]
async fn a_down_or_slow_collector_delays_no_request() {
    let (socket, port) = refusing_port();
    let traces = format!("traces: {{endpoint: 'http://127.0.0.1:{port}', timeout: 60s}}\n");
    let sidecar = Sidecar::start(&(POOL.to_owned() + &traces)).await;
    let flood = async |from: u64, flags: &str| {
        let started = Instant::now();
        for lease in from..from + 3000 {
            assert!(matches!(sidecar.send(ask(lease, &traceparent(flags))).await, Answer::Admitted(_)));
        }
        started.elapsed()
    };
    // On a busy machine, requests are slow without traces too.
    let limit = LIMIT.max(flood(9001, "00").await * 4);
    // Each request has two spans, so these are more spans than the exporter's queue holds.
    flood(1, "01").await;
    let refused = flood(3001, "01").await;
    let (_, text) = sidecar.get("/metrics").await;
    let dropped =
        text.lines().find_map(|l| l.strip_prefix("evenkeel_trace_spans_total{result=\"dropped\"} "));
    assert!(dropped.unwrap().parse::<u64>().unwrap() >= 12_000 - 4096 - 512 * 6, "{dropped:?}");

    let collector = Collector::start_on(socket);
    collector.got.stalls.store(true, Ordering::Relaxed);
    // The collector does not answer the first batch.
    let stalled = flood(6001, "01").await;
    assert!(refused < limit && stalled < limit, "{refused:?} {stalled:?}, not within {limit:?}");
    collector.got.stalls.store(false, Ordering::Relaxed);
    collector.got.go_on.notify_waiters();
    collector.got.go_on.notify_one();
    collector.spans(1).await;
}

#[tokio::test]
async fn an_export_that_fails_briefly_is_retried() {
    let collector = Collector::start().await;
    collector.got.not_ready.store(2, Ordering::Relaxed);
    let sidecar = Sidecar::start(&(POOL.to_owned() + &collector.yaml(", timeout: 60s"))).await;
    sidecar.send(ask(1, &traceparent("01"))).await;
    metric(&sidecar, "evenkeel_trace_spans_total{result=\"exported\"} 2").await;
    metric(&sidecar, "evenkeel_trace_exports_total{result=\"ok\"} 1").await;
    metric(&sidecar, "evenkeel_trace_exports_total{result=\"failed\"} 0").await;
    assert_eq!(collector.spans(2).await.len(), 2);
    assert_eq!(collector.got.not_ready.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn spans_not_exported_in_time_count_as_failed() {
    let (socket, port) = refusing_port();
    let traces = format!("traces: {{endpoint: 'http://127.0.0.1:{port}', timeout: 200ms}}\n");
    let sidecar = Sidecar::start(&(POOL.to_owned() + &traces)).await;
    sidecar.send(ask(1, &traceparent("01"))).await;
    metric(&sidecar, "evenkeel_trace_spans_total{result=\"failed\"} 2").await;
    metric(&sidecar, "evenkeel_trace_exports_total{result=\"failed\"} 1").await;
    let collector = Collector::start_on(socket);
    sidecar.send(ask(2, &traceparent("01"))).await;
    metric(&sidecar, "evenkeel_trace_spans_total{result=\"exported\"} 2").await;
    assert_eq!(attributes(named(&collector.spans(2).await, "evenkeel.admit"))["evenkeel.lease"], "2");
}

#[tokio::test]
async fn a_shutdown_exports_recorded_spans() {
    let collector = Collector::start().await;
    let yaml = POOL.to_owned() + &collector.yaml("");
    let sidecar = Sidecar::start(&yaml).await;
    for lease in 1..=20 {
        sidecar.send(ask(lease, &traceparent("01"))).await;
    }
    sidecar.shutdown.cancel();
    sidecar.task.await.unwrap().unwrap();
    assert_eq!(collector.got.spans.lock().len(), 40);
}

#[tokio::test]
async fn a_down_or_slow_collector_does_not_delay_the_shutdown() {
    let slow = Collector::start().await;
    slow.got.stalls.store(true, Ordering::Relaxed);
    let (_socket, refusing) = refusing_port();
    for port in [refusing, slow.port] {
        let yaml = format!("{POOL}traces: {{endpoint: 'http://127.0.0.1:{port}', timeout: 60s}}\n");
        let sidecar = Sidecar::start(&yaml).await;
        sidecar.send(ask(1, &traceparent("01"))).await;
        let started = Instant::now();
        sidecar.shutdown.cancel();
        sidecar.task.await.unwrap().unwrap();
        assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    }
}
