//! One trace covers a request from Envoy to Redis. A real Envoy with its own OpenTelemetry tracer and the plugin, and a
//! sidecar, export spans to one collector. The gateway is configured as docs/traces.md describes.

use std::{collections::HashMap, fs, path::Path, sync::Arc, time::Duration};

use evenkeel_loadtest::lab::{
    CLUSTER, CustomEnvoy, Lab, OVERRIDE_HOST_HEADER,
    bootstrap::{
        address, cluster, http2_cluster, rate_limit_filter, router, sidecar_cluster, typed, wasm_filter,
    },
    paths,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value as Any,
    trace::v1::Span,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

use crate::support::{
    chat::{self, HttpClient},
    lab::{self, roomy_engine},
    wait::within,
};

const LIMIT: Duration = Duration::from_secs(20);
const CLIENT_TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT_SPAN_ID: &str = "b7ad6b7169203331";

/// The `traceparent` header that docs/traces.md sets before the plugin.
const TRACEPARENT: &str = "00-%TRACE_ID%-%SPAN_ID%-%CEL((request.id.matches('^[^-]*-[^-]*-[9ab]') && \
                           (!('traceparent' in request.headers) || \
                           request.headers['traceparent'].endsWith('1'))) ? '01' : '00')%";

/// A collector that stores every exported span with the name of its service.
#[derive(Default)]
struct Collector(Mutex<Vec<(String, Span)>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource_spans in request.into_inner().resource_spans {
            let attributes = resource_spans.resource.unwrap_or_default().attributes;
            let service = attributes.into_iter().find(|kv| kv.key == "service.name");
            let service = match service.and_then(|kv| kv.value?.value) {
                Some(Any::StringValue(name)) => name,
                other => panic!("no service name: {other:?}"),
            };
            let spans = resource_spans.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.0.lock().extend(spans.map(|span| (service.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A tracing gateway, a tracing sidecar on Redis, and the collector.
struct Fixture {
    _lab: Lab,
    envoy: CustomEnvoy,
    client: HttpClient,
    collector: Arc<Collector>,
    collector_task: JoinHandle<()>,
    _limits: tempfile::TempDir,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.collector_task.abort();
    }
}

impl Fixture {
    /// Starts the fixture. The gateway samples `percent` % of the requests that do not request a trace themselves. If a
    /// program is not installed, prints this and returns `None`.
    async fn start(percent: u32) -> Option<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let otlp = listener.local_addr().unwrap().port();
        let collector = Arc::new(Collector::default());
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::from_arc(Arc::clone(&collector)))
            .serve_with_incoming(TcpIncoming::from(listener));
        let collector_task = tokio::spawn(async move { server.await.unwrap() });

        let limits = tempfile::tempdir().unwrap();
        let rule = "domain: d\ndescriptors: [{key: k, rate_limit: {unit: year, requests_per_unit: 1000}}]\n";
        fs::write(limits.path().join("d.yaml"), rule).unwrap();
        let yaml = format!(
            "traces: {{endpoint: \"http://127.0.0.1:{otlp}\"}}\n\
             limits: [{{name: many, counts: tokens, amount: 1000000, per: 1d, key: [ip]}}]\n\
             rate_limit_service: {{config: \"{}\"}}",
            limits.path().display()
        );
        let lab = Lab::builder().hosts(1).envoys(0).sidecars(1).redis().engine(roomy_engine());
        let lab = lab.store_timeout(Duration::from_secs(5)).sidecar_yaml(&yaml);
        let lab = lab::start(lab).await?;
        let module = lab::found(paths::plugin())?;
        let clusters = [
            cluster(CLUSTER, &address(lab.hosts()[0].port())),
            sidecar_cluster(lab.sidecars()[0].socket()),
            http2_cluster("otlp", &address(otlp)),
        ];
        let manager = connection_manager(percent, &module);
        let envoy = lab::found(CustomEnvoy::start(lab.dir(), "envoy-traces", 1, [manager], &clusters).await)?;
        let client = chat::client();
        Some(Self { _lab: lab, envoy, client, collector, collector_task, _limits: limits })
    }

    async fn send(&self, headers: &[(&str, &str)]) {
        let response =
            self.client.request(chat::small_request(&self.envoy.urls()[0], headers)).await.unwrap();
        assert_eq!(response.status(), 200);
        chat::text(response).await.unwrap();
    }

    /// Waits for all expected spans of the request and returns them by name.
    async fn spans(&self) -> HashMap<String, Span> {
        let expected = ["evenkeel.admit", "evenkeel.rate_limit", "evenkeel.settle"];
        within(LIMIT, "all spans of the request are exported", || async {
            let spans = self.collector.0.lock().clone();
            let names: Vec<String> =
                spans.iter().map(|(service, span)| format!("{service}: {}", span.name)).collect();
            let all = expected.iter().all(|name| spans.iter().any(|(_, span)| span.name == *name));
            let envoy = spans.iter().any(|(service, span)| service == "envoy" && span.kind == SERVER);
            // The sidecar calls Redis twice for Admit, twice for Settle, and once for the rate limit.
            let calls = spans.iter().filter(|(_, span)| span.name.starts_with("evenkeel.store ")).count();
            if !all || !envoy || calls < 5 {
                return Err(format!("{names:?}"));
            }
            Ok(())
        })
        .await;
        let key = |(service, span): &(String, Span)| match service.as_str() {
            "envoy" if span.kind == SERVER => "envoy".to_owned(),
            _ => span.name.clone(),
        };
        let spans = self.collector.0.lock();
        let requests = spans.iter().filter(|(_, span)| !span.name.starts_with("evenkeel.store "));
        requests.map(|span| (key(span), span.1.clone())).collect()
    }

    /// Returns the sorted names of a span's child spans.
    fn children(&self, parent: &Span) -> Vec<String> {
        let spans = self.collector.0.lock();
        let children = spans.iter().filter(|(_, span)| span.parent_span_id == parent.span_id);
        let mut names: Vec<String> = children.map(|(_, span)| span.name.clone()).collect();
        names.sort_unstable();
        names
    }

    fn assert_same_trace_id(&self) {
        let spans = self.collector.0.lock();
        let (_, first) = spans.first().unwrap();
        assert!(spans.iter().all(|(_, span)| span.trace_id == first.trace_id), "{spans:#?}");
    }
}

/// `SPAN_KIND_SERVER`.
const SERVER: i32 = 2;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn connection_manager(percent: u32, module: &Path) -> Value {
    let plugin = json!({
        "sidecar": {"cluster": "evenkeel"},
        // The deadline is far longer than a call takes.
        "deadline_ms": 10_000,
        "on_error": "closed",
        "apply": {"mode": "override_host", "header": OVERRIDE_HOST_HEADER},
    });
    let filters = json!([
        typed(
            "envoy.filters.http.header_mutation",
            "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
            json!({
                "mutations": {"request_mutations": [{"append": {
                    "header": {"key": "traceparent", "value": TRACEPARENT},
                    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                }}]},
            })
        ),
        rate_limit_filter(json!({"domain": "d", "timeout": "10s"})),
        wasm_filter("evenkeel", module, &plugin),
        router(),
    ]);
    let tracer = typed(
        "envoy.tracers.opentelemetry",
        "envoy.config.trace.v3.OpenTelemetryConfig",
        json!({
            "grpc_service": {"envoy_grpc": {"cluster_name": "otlp"}, "timeout": "5s"},
            "service_name": "envoy",
        }),
    );
    json!({
        "stat_prefix": "edge",
        "tracing": {"provider": tracer, "random_sampling": {"value": percent}, "client_sampling": {"value": 100}},
        "route_config": {"name": "edge", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{
            "name": "chat",
            "match": {"prefix": "/"},
            "route": {
                "cluster": CLUSTER,
                "timeout": "0s",
                "rate_limits": [{"actions": [{"generic_key": {"descriptor_key": "k", "descriptor_value": "v"}}]}],
            },
        }]}]},
        "http_filters": filters,
    })
}

async fn assert_one_trace(fixture: &Fixture) -> HashMap<String, Span> {
    let spans = fixture.spans().await;
    fixture.assert_same_trace_id();
    let envoy = &spans["envoy"];
    for name in ["evenkeel.admit", "evenkeel.settle"] {
        assert_eq!(hex(&spans[name].parent_span_id), hex(&envoy.span_id), "{name}");
        assert_eq!(fixture.children(&spans[name]), ["evenkeel.store commit", "evenkeel.store count"]);
    }
    // Envoy creates a span for the call of its rate limit filter.
    let call = &spans["evenkeel.rate_limit"];
    let filter_span = spans.values().find(|span| span.span_id == call.parent_span_id);
    let filter_span = filter_span.unwrap_or_else(|| panic!("no parent of {call:?} among {spans:#?}"));
    assert_eq!(hex(&filter_span.parent_span_id), hex(&envoy.span_id));
    assert_eq!(fixture.children(call), ["evenkeel.store count"]);
    spans
}

#[tokio::test]
async fn a_clients_trace_continues_through_envoy_to_redis() {
    let Some(fixture) = Fixture::start(100).await else { return };
    let not_sampled = format!("00-{}-{CLIENT_SPAN_ID}-00", CLIENT_TRACE_ID.replace('0', "1"));
    fixture.send(&[("traceparent", &not_sampled)]).await;
    fixture.send(&[("traceparent", &format!("00-{CLIENT_TRACE_ID}-{CLIENT_SPAN_ID}-01"))]).await;
    let spans = assert_one_trace(&fixture).await;
    assert_eq!(hex(&spans["envoy"].trace_id), CLIENT_TRACE_ID);
    assert_eq!(hex(&spans["envoy"].parent_span_id), CLIENT_SPAN_ID);
}

#[tokio::test]
async fn a_trace_started_by_envoy_continues_to_redis() {
    let Some(fixture) = Fixture::start(0).await else { return };
    // Neither request is sampled, whatever flag the client sends.
    fixture.send(&[]).await;
    fixture.send(&[("traceparent", &format!("00-{CLIENT_TRACE_ID}-{CLIENT_SPAN_ID}-01"))]).await;
    // This header requests a trace.
    fixture.send(&[("x-client-trace-id", "of the client")]).await;
    let spans = assert_one_trace(&fixture).await;
    assert!(spans["envoy"].parent_span_id.is_empty());
}
