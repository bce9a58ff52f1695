//! Traces, as a collector sees them: one trace from the gateway's span to the call to the store; and none of it in the
//! way of a request.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use envoy_types::pb::envoy::{
    extensions::common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor::Entry},
    service::ratelimit::v3::{RateLimitRequest, rate_limit_service_client::RateLimitServiceClient},
};
use evenkeel_proto::v1::{self as pb, admit_response::Answer};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use parking_lot::Mutex;
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

use crate::support::{
    eventually, free_port,
    proxy::{Mode, Proxy},
    redis::Redis,
    sidecar::{Sidecar, pool},
};

const LIMIT: Duration = Duration::from_secs(10);
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// What a collector was sent.
#[derive(Default)]
struct Got {
    spans: Mutex<Vec<Span>>,
    /// Attributes of the resource, and headers, of the last export.
    resource: Mutex<HashMap<String, String>>,
    key: Mutex<Option<String>>,
    /// Answers nothing until told to.
    stalls: AtomicBool,
    /// How many exports it is not ready for.
    not_ready: AtomicUsize,
    go_on: Notify,
}

#[tonic::async_trait]
impl TraceService for Got {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if self.stalls.load(Ordering::Relaxed) {
            self.go_on.notified().await;
        }
        let one_less = |left: usize| left.checked_sub(1);
        if self.not_ready.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
            return Err(Status::unavailable("not yet"));
        }
        let key = request.metadata().get("x-key").and_then(|key| key.to_str().ok()).map(str::to_owned);
        *self.key.lock() = key;
        for of_resource in request.into_inner().resource_spans {
            let attributes = of_resource.resource.unwrap().attributes.into_iter();
            *self.resource.lock() = attributes.map(|kv| (kv.key, text(kv.value.unwrap().value))).collect();
            self.spans.lock().extend(of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A collector in this process.
struct Collector {
    got: Arc<Got>,
    port: u16,
    task: JoinHandle<()>,
}

impl Collector {
    async fn start() -> Self {
        Self::start_on(0).await
    }

    async fn start_on(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let got = Arc::new(Got::default());
        let service = TraceServiceServer::from_arc(Arc::clone(&got));
        let server = tonic::transport::Server::builder().add_service(service);
        let serve = server.serve_with_incoming(TcpIncoming::from(listener));
        Self { got, port, task: tokio::spawn(async move { serve.await.unwrap() }) }
    }

    fn yaml(&self, more: &str) -> String {
        format!("traces: {{endpoint: 'http://127.0.0.1:{}'{more}}}\n", self.port)
    }

    /// The spans, once there are this many.
    async fn spans(&self, count: usize) -> Vec<Span> {
        eventually(LIMIT, &format!("{count} spans"), || async {
            let spans = self.got.spans.lock().clone();
            if spans.len() >= count { Ok(spans) } else { Err(format!("{:?}", names(&spans))) }
        })
        .await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn text(value: Option<Value>) -> String {
    match value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(flag)) => flag.to_string(),
        other => format!("{other:?}"),
    }
}

fn names(spans: &[Span]) -> Vec<&str> {
    let mut names: Vec<&str> = spans.iter().map(|span| &*span.name).collect();
    names.sort_unstable();
    names
}

fn named<'s>(spans: &'s [Span], name: &str) -> &'s Span {
    let mut found = spans.iter().filter(|span| span.name == name);
    let span = found.next().unwrap_or_else(|| panic!("no {name} among {:?}", names(spans)));
    assert!(found.next().is_none(), "{name} twice");
    span
}

fn attributes(span: &Span) -> HashMap<String, String> {
    let pairs = span.attributes.iter();
    pairs.map(|kv| (kv.key.clone(), text(kv.value.clone().and_then(|value| value.value)))).collect()
}

fn code(span: &Span) -> StatusCode {
    span.status.as_ref().map_or(StatusCode::Unset, opentelemetry_proto::tonic::trace::v1::Status::code)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

fn ask(lease: u64, traceparent: &str) -> pb::AdmitRequest {
    pb::AdmitRequest {
        pool: Some(pool("llm")),
        holder: "g".to_owned(),
        lease,
        traceparent: traceparent.to_owned(),
        ..pb::AdmitRequest::default()
    }
}

async fn admit(sidecar: &Sidecar, request: impl tonic::IntoRequest<pb::AdmitRequest>) -> Answer {
    sidecar.gateway.clone().admit(request).await.unwrap().into_inner().answer.unwrap()
}

fn redis_yaml(url: &str) -> String {
    format!(
        "store: {{type: redis, url: '{url}', timeout: 2s}}\n\
         pools: [{{cluster: llm, endpoints: [{{address: a}}]}}]\n\
         limits: [{{name: many, counts: tokens, amount: 1000000, per: 1d, key: [consumer]}}]\n"
    )
}

async fn metric(sidecar: &Sidecar, line: &str) {
    eventually(LIMIT, line, || async {
        let (_, text) = sidecar.get("/metrics").await;
        let seen: Vec<&str> = text.lines().filter(|l| l.starts_with("evenkeel_trace")).collect();
        if seen.contains(&line) { Ok(()) } else { Err(seen.join("\n")) }
    })
    .await;
}

#[tokio::test]
async fn one_trace_from_the_gateway_to_the_calls_to_redis() {
    let (redis, collector) = (Redis::start(), Collector::start().await);
    let traces = collector.yaml(", service_name: keel, headers: [{name: x-key, value: s3cret}]");
    let sidecar = Sidecar::start(&(redis_yaml(&redis.url()) + &traces)).await;
    let request = pb::AdmitRequest {
        tracestate: "vendor=1".to_owned(),
        request_id: "r-1".to_owned(),
        model: "m".to_owned(),
        subject: Some(pb::Subject { consumer: "alice".to_owned(), ..pb::Subject::default() }),
        ..ask(7, &traceparent("01"))
    };
    let Answer::Admitted(admitted) = admit(&sidecar, request).await else { panic!("not admitted") };
    let settle = pb::SettleRequest {
        pool: Some(pool("llm")),
        holder: "g".to_owned(),
        lease: 7,
        ticket: admitted.ticket,
        traceparent: traceparent("01"),
        outcome: pb::Outcome::Success.into(),
        status: 200,
        ..pb::SettleRequest::default()
    };
    assert!(sidecar.gateway.clone().settle(settle).await.unwrap().into_inner().released);

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
            let told = attributes(call);
            assert_eq!(told["db.system.name"], "redis");
            assert_eq!(told["db.stored_procedure.name"], call.name.rsplit_once(' ').unwrap().1);
            assert_eq!(told["server.port"], redis.port.to_string());
            assert_eq!(told["evenkeel.store.operations"], "1");
            assert!(told["evenkeel.store.waited_us"].parse::<u64>().unwrap() < 10_000_000);
        }
    }
    assert_eq!((&*admit.trace_state, &*settle.trace_state), ("vendor=1", ""));
    let told = attributes(admit);
    let expected = [
        ("evenkeel.cluster", "llm"),
        ("evenkeel.holder", "g"),
        ("evenkeel.lease", "7"),
        ("evenkeel.request_id", "r-1"),
        ("evenkeel.result", "admitted"),
        ("evenkeel.endpoint", "a"),
        ("evenkeel.basis", "shared"),
        ("evenkeel.limits", "1"),
        ("gen_ai.request.model", "m"),
    ];
    for (key, value) in expected {
        assert_eq!(told[key], value, "{key}");
    }
    assert!(!format!("{spans:?}").contains("alice"), "whose request it is, is not told");
    let told = attributes(settle);
    assert_eq!((&*told["evenkeel.outcome"], &*told["evenkeel.released"]), ("success", "true"));
    assert_eq!(collector.got.resource.lock()["service.name"], "keel");
    assert_eq!(collector.got.key.lock().as_deref(), Some("s3cret"));
    metric(&sidecar, "evenkeel_trace_spans_total{result=\"exported\"} 6").await;
}

#[tokio::test]
async fn only_what_the_gateway_samples_is_recorded() {
    let collector = Collector::start().await;
    let sidecar = Sidecar::start(&collector.yaml("")).await;
    let offered = |lease, traceparent: &str| pb::AdmitRequest {
        candidates: vec![pb::Candidate { address: "a".to_owned(), ..pb::Candidate::default() }],
        ..ask(lease, traceparent)
    };
    let not = [traceparent("00"), String::new(), "00-----01".to_owned(), traceparent("01").to_uppercase()];
    for (lease, traceparent) in (1..).zip(&not) {
        admit(&sidecar, offered(lease, traceparent)).await;
    }
    // Spans leave in order: had one of the others been recorded, it would come first.
    admit(&sidecar, offered(9, &traceparent("01"))).await;
    let spans = collector.spans(2).await;
    assert_eq!(names(&spans), ["evenkeel.admit", "evenkeel.store commit"]);
    assert_eq!(attributes(named(&spans, "evenkeel.admit"))["evenkeel.lease"], "9");
    let call = named(&spans, "evenkeel.store commit");
    assert_eq!((attributes(call)["db.system.name"].as_str(), call.kind()), ("memory", SpanKind::Internal));
}

/// Nothing carries the trace from Admit to Settle, nor from one sidecar to another.
#[tokio::test]
async fn a_lease_without_a_trace_begins_one_that_every_sidecar_finds() {
    let (redis, collector) = (Redis::start(), Collector::start().await);
    let yaml = redis_yaml(&redis.url()) + &collector.yaml(", sample: 1");
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
    // A gateway that has decided not to sample is not overruled.
    admit(&one, ask(3, &traceparent("00"))).await;
    admit(&one, ask(4, "")).await;
    let spans = collector.spans(8).await;
    let leases = spans.iter().filter(|span| span.name == "evenkeel.admit").map(|span| {
        let told = attributes(span);
        told["evenkeel.lease"].clone()
    });
    let mut leases: Vec<String> = leases.collect();
    leases.sort_unstable();
    assert_eq!(leases, ["1", "2", "4"]);
}

#[tokio::test]
async fn what_a_call_carries_in_its_metadata_counts_where_its_message_says_nothing() {
    let (redis, collector) = (Redis::start(), Collector::start().await);
    let dir = tempfile::tempdir().unwrap();
    let limits = "domain: d\ndescriptors: [{key: k, rate_limit: {unit: year, requests_per_unit: 1}}]\n";
    std::fs::write(dir.path().join("limits.yaml"), limits).unwrap();
    let more = format!("rate_limit_service: {{config: '{}'}}\n", dir.path().display());
    let sidecar = Sidecar::start(&(redis_yaml(&redis.url()) + &collector.yaml("") + &more)).await;

    let mut call = Request::new(ask(1, ""));
    call.metadata_mut().insert("traceparent", traceparent("01").parse().unwrap());
    admit(&sidecar, call).await;
    let spans = collector.spans(2).await;
    assert_eq!(hex(&named(&spans, "evenkeel.admit").parent_span_id), PARENT);

    let address = format!("http://{}", sidecar.addresses.grpc.as_ref().unwrap());
    let mut rls = RateLimitServiceClient::connect(address).await.unwrap();
    let entry = Entry { key: "k".to_owned(), value: "v".to_owned() };
    let descriptor = RateLimitDescriptor { entries: vec![entry], ..RateLimitDescriptor::default() };
    for _ in 0..2 {
        let descriptors = vec![descriptor.clone()];
        let mut call = Request::new(RateLimitRequest { domain: "d".to_owned(), descriptors, hits_addend: 1 });
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
async fn a_store_that_does_not_answer_is_told() {
    let (redis, collector) = (Redis::start(), Collector::start().await);
    let proxy = Proxy::start(redis.port).await;
    let yaml = format!(
        "store: {{type: redis, url: '{}', timeout: 100ms}}\npools: [{{cluster: llm, endpoints: [{{address: a}}]}}]\n",
        proxy.url()
    );
    let sidecar = Sidecar::start(&(yaml + &collector.yaml(""))).await;
    sidecar.lease("llm", "g", 1).await;
    proxy.set(Mode::Stall);
    admit(&sidecar, ask(2, &traceparent("01"))).await;
    let spans = collector.spans(3).await;
    let admit = named(&spans, "evenkeel.admit");
    assert_eq!(attributes(admit)["evenkeel.basis"], "local");
    let calls = spans.iter().filter(|span| span.name == "evenkeel.store commit");
    let systems: HashMap<String, &Span> =
        calls.map(|call| (attributes(call)["db.system.name"].clone(), call)).collect();
    let failed = systems["redis"];
    assert_eq!(code(failed), StatusCode::Error);
    assert_eq!(attributes(failed)["error.type"], "timeout");
    // What was chosen from instead.
    assert_eq!(code(systems["memory"]), StatusCode::Unset);
}

/// A collector that is away, or takes what it is sent and says nothing, is nobody's problem but the traces'.
#[tokio::test]
async fn a_collector_that_is_away_or_slow_delays_no_request() {
    let port = free_port();
    let traces = format!("traces: {{endpoint: 'http://127.0.0.1:{port}', timeout: 60s}}\n");
    let pools = "pools: [{cluster: llm, endpoints: [{address: a}]}]\n";
    let sidecar = Sidecar::start(&format!("{pools}{traces}")).await;
    let flood = async |from: u64| {
        let started = Instant::now();
        for lease in from..from + 3000 {
            assert!(matches!(admit(&sidecar, ask(lease, &traceparent("01"))).await, Answer::Admitted(_)));
        }
        started.elapsed()
    };
    // Two spans each: more than the exporter holds.
    flood(1).await;
    let away = flood(3001).await;
    let (_, text) = sidecar.get("/metrics").await;
    let dropped =
        text.lines().find_map(|l| l.strip_prefix("evenkeel_trace_spans_total{result=\"dropped\"} "));
    assert!(dropped.unwrap().parse::<u64>().unwrap() >= 12_000 - 4096 - 512 * 6, "{dropped:?}");

    let collector = Collector::start_on(port).await;
    collector.got.stalls.store(true, Ordering::Relaxed);
    // The first batch is on its way and stays there.
    let stalled = flood(6001).await;
    assert!(away < LIMIT && stalled < LIMIT, "{away:?} {stalled:?}");
    collector.got.stalls.store(false, Ordering::Relaxed);
    collector.got.go_on.notify_waiters();
    collector.got.go_on.notify_one();
    collector.spans(1).await;
}

#[tokio::test]
async fn an_export_that_fails_in_passing_is_repeated() {
    let collector = Collector::start().await;
    collector.got.not_ready.store(2, Ordering::Relaxed);
    let pools = "pools: [{cluster: llm, endpoints: [{address: a}]}]\n".to_owned();
    let sidecar = Sidecar::start(&(pools + &collector.yaml(", timeout: 60s"))).await;
    admit(&sidecar, ask(1, &traceparent("01"))).await;
    metric(&sidecar, "evenkeel_trace_spans_total{result=\"exported\"} 2").await;
    metric(&sidecar, "evenkeel_trace_exports_total{result=\"ok\"} 1").await;
    metric(&sidecar, "evenkeel_trace_exports_total{result=\"failed\"} 0").await;
    assert_eq!(collector.spans(2).await.len(), 2);
    assert_eq!(collector.got.not_ready.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_is_not_taken_in_time_is_given_up_and_counted() {
    let port = free_port();
    let traces = format!("traces: {{endpoint: 'http://127.0.0.1:{port}', timeout: 200ms}}\n");
    let sidecar =
        Sidecar::start(&format!("pools: [{{cluster: llm, endpoints: [{{address: a}}]}}]\n{traces}")).await;
    admit(&sidecar, ask(1, &traceparent("01"))).await;
    metric(&sidecar, "evenkeel_trace_spans_total{result=\"failed\"} 2").await;
    metric(&sidecar, "evenkeel_trace_exports_total{result=\"failed\"} 1").await;
    let collector = Collector::start_on(port).await;
    admit(&sidecar, ask(2, &traceparent("01"))).await;
    metric(&sidecar, "evenkeel_trace_spans_total{result=\"exported\"} 2").await;
    assert_eq!(attributes(named(&collector.spans(2).await, "evenkeel.admit"))["evenkeel.lease"], "2");
}

#[tokio::test]
async fn what_is_recorded_leaves_before_the_sidecar_does() {
    let collector = Collector::start().await;
    let yaml = "pools: [{cluster: llm, endpoints: [{address: a}]}]\n".to_owned() + &collector.yaml("");
    let sidecar = Sidecar::start(&yaml).await;
    for lease in 1..=20 {
        admit(&sidecar, ask(lease, &traceparent("01"))).await;
    }
    sidecar.shutdown.cancel();
    sidecar.task.await.unwrap().unwrap();
    assert_eq!(collector.got.spans.lock().len(), 40);
}

/// Nor one that takes what it is sent and says nothing.
#[tokio::test]
async fn a_collector_that_is_away_does_not_hold_up_the_end() {
    let slow = Collector::start().await;
    slow.got.stalls.store(true, Ordering::Relaxed);
    for port in [free_port(), slow.port] {
        let yaml = format!(
            "pools: [{{cluster: llm, endpoints: [{{address: a}}]}}]\n\
             traces: {{endpoint: 'http://127.0.0.1:{port}', timeout: 60s}}\n"
        );
        let sidecar = Sidecar::start(&yaml).await;
        admit(&sidecar, ask(1, &traceparent("01"))).await;
        let started = Instant::now();
        sidecar.shutdown.cancel();
        sidecar.task.await.unwrap().unwrap();
        assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    }
}
