//! One trace from Envoy to Redis: a real Envoy with its own OpenTelemetry tracer, the plugin, a sidecar and a collector
//! that both export to. The gateway is configured as docs/traces.md says.

use std::{collections::HashMap, fs, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use evenkeel_loadtest::lab::{CLUSTER, Lab, PICK_HEADER, Process, paths, ports, wait};
use http_body_util::Full;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
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

use crate::{
    gateway::{roomy, within},
    support,
};

const LIMIT: Duration = Duration::from_secs(20);
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT: &str = "b7ad6b7169203331";

/// What docs/traces.md puts in front of the plugin.
const TRACEPARENT: &str = "00-%TRACE_ID%-%SPAN_ID%-%CEL((request.id.matches('^[^-]*-[^-]*-[9ab]') && \
                           (!('traceparent' in request.headers) || \
                           request.headers['traceparent'].endsWith('1'))) ? '01' : '00')%";

/// Every span exported, by the name of its service.
#[derive(Default)]
struct Got(Mutex<Vec<(String, Span)>>);

#[tonic::async_trait]
impl TraceService for Got {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_resource in request.into_inner().resource_spans {
            let attributes = of_resource.resource.unwrap_or_default().attributes;
            let service = attributes.into_iter().find(|kv| kv.key == "service.name");
            let service = match service.and_then(|kv| kv.value?.value) {
                Some(Any::StringValue(name)) => name,
                other => panic!("no name of a service: {other:?}"),
            };
            let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.0.lock().extend(spans.map(|span| (service.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A gateway that traces, a sidecar on Redis that does, and the collector.
struct Traced {
    _lab: Lab,
    _envoy: Process,
    url: String,
    client: Client<HttpConnector, Full<Bytes>>,
    got: Arc<Got>,
    collector: JoinHandle<()>,
    _limits: tempfile::TempDir,
}

impl Drop for Traced {
    fn drop(&mut self) {
        self.collector.abort();
    }
}

impl Traced {
    /// `percent`: which part of the requests the gateway samples that do not ask for it. `None`, said aloud, where a
    /// program is not installed.
    async fn start(percent: u32) -> Option<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let otlp = listener.local_addr().unwrap().port();
        let got = Arc::new(Got::default());
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::from_arc(Arc::clone(&got)))
            .serve_with_incoming(TcpIncoming::from(listener));
        let collector = tokio::spawn(async move { server.await.unwrap() });

        let limits = tempfile::tempdir().unwrap();
        let rule = "domain: d\ndescriptors: [{key: k, rate_limit: {unit: year, requests_per_unit: 1000}}]\n";
        fs::write(limits.path().join("d.yaml"), rule).unwrap();
        let yaml = format!(
            "traces: {{endpoint: \"http://127.0.0.1:{otlp}\"}}\n\
             limits: [{{name: many, counts: tokens, amount: 1000000, per: 1d, key: [ip]}}]\n\
             rate_limit_service: {{config: \"{}\"}}",
            limits.path().display()
        );
        let lab = Lab::builder().hosts(1).envoys(0).sidecars(1).redis().engine(roomy());
        let lab = lab.store_timeout(Duration::from_secs(5)).sidecar_yaml(&yaml);
        let lab = support::start(lab).await?;
        let (program, module) = (support::found(paths::envoy())?, support::found(paths::plugin())?);
        let (port, admin) = (ports::free_port().unwrap(), ports::free_port().unwrap());
        let path = lab.dir().join("envoy-traces.json");
        let hosts = (lab.hosts()[0].port(), otlp);
        let config = envoy_config(percent, (port, admin), hosts, lab.sidecars()[0].socket(), &module);
        fs::write(&path, config.to_string()).unwrap();
        let mut envoy = Process::new("envoy-traces", program, lab.dir())
            .args(["--config-path".as_ref(), path.as_os_str()])
            .args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]);
        envoy.spawn().unwrap();
        let ready = format!("http://127.0.0.1:{admin}/ready");
        let is_ready = async || wait::get(&ready).await.is_some_and(|(status, _)| status.is_success());
        envoy.wait_ready(Duration::from_secs(30), is_ready).await.unwrap();
        let (url, client) = (format!("http://127.0.0.1:{port}"), support::client());
        Some(Self { _lab: lab, _envoy: envoy, url, client, got, collector, _limits: limits })
    }

    async fn ask(&self, headers: &[(&str, &str)]) {
        let mut request = support::chat(&self.url, 1, 1);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.client.request(request.body(support::streaming()).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        support::text(response).await.unwrap();
    }

    /// The spans of the one request, once all that are to be expected are there.
    async fn spans(&self) -> HashMap<String, Span> {
        let expected = ["evenkeel.admit", "evenkeel.rate_limit", "evenkeel.settle"];
        within(LIMIT, "the spans of the request", || async {
            let spans = self.got.0.lock().clone();
            let names: Vec<String> =
                spans.iter().map(|(service, span)| format!("{service}: {}", span.name)).collect();
            let all = expected.iter().all(|name| spans.iter().any(|(_, span)| span.name == *name));
            let envoy = spans.iter().any(|(service, span)| service == "envoy" && span.kind == SERVER);
            // 2 calls for each of Admit and Settle, one for the rate limit.
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
        let spans = self.got.0.lock();
        let requests = spans.iter().filter(|(_, span)| !span.name.starts_with("evenkeel.store "));
        requests.map(|span| (key(span), span.1.clone())).collect()
    }

    /// Names of the calls made for a span.
    fn calls(&self, of: &Span) -> Vec<String> {
        let spans = self.got.0.lock();
        let calls = spans.iter().filter(|(_, span)| span.parent_span_id == of.span_id);
        let mut names: Vec<String> = calls.map(|(_, span)| span.name.clone()).collect();
        names.sort_unstable();
        names
    }

    fn assert_one_trace(&self) {
        let spans = self.got.0.lock();
        let (_, first) = spans.first().unwrap();
        assert!(spans.iter().all(|(_, span)| span.trace_id == first.trace_id), "{spans:#?}");
    }
}

/// `SPAN_KIND_SERVER`.
const SERVER: i32 = 2;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn envoy_config(
    percent: u32,
    (port, admin): (u16, u16),
    (host, otlp): (u16, u16),
    sidecar: &Path,
    module: &Path,
) -> Value {
    let address = |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let typed = |name: &str, of: &str, config: Value| {
        let mut config = config;
        config["@type"] = format!("type.googleapis.com/{of}").into();
        json!({"name": name, "typed_config": config})
    };
    let cluster = |name: &str, endpoint: Value| {
        json!({
            "name": name,
            "type": "STATIC",
            "connect_timeout": "1s",
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": endpoint}}]}],
            },
        })
    };
    let over_http2 = |mut cluster: Value| {
        cluster["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }});
        cluster
    };
    let plugin = json!({
        "sidecar": {"cluster": "evenkeel"},
        // Far more than it takes.
        "deadline_ms": 10_000,
        "on_error": "closed",
        "apply": {"mode": "override_host", "header": PICK_HEADER},
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
        typed(
            "envoy.filters.http.ratelimit",
            "envoy.extensions.filters.http.ratelimit.v3.RateLimit",
            json!({
                "domain": "d",
                "timeout": "10s",
                "failure_mode_deny": true,
                "rate_limit_service": {
                    "transport_api_version": "V3",
                    "grpc_service": {"envoy_grpc": {"cluster_name": "evenkeel"}},
                },
            })
        ),
        typed(
            "envoy.filters.http.wasm",
            "envoy.extensions.filters.http.wasm.v3.Wasm",
            json!({"config": {
                "name": "evenkeel",
                "root_id": "evenkeel",
                "vm_config": {
                    "vm_id": "evenkeel",
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": {"local": {"filename": module}},
                },
                "configuration": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue",
                    "value": plugin.to_string(),
                },
            }})
        ),
        typed("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router", json!({})),
    ]);
    let tracer = typed(
        "envoy.tracers.opentelemetry",
        "envoy.config.trace.v3.OpenTelemetryConfig",
        json!({
            "grpc_service": {"envoy_grpc": {"cluster_name": "otlp"}, "timeout": "5s"},
            "service_name": "envoy",
        }),
    );
    let manager = json!({
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
    });
    let of = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let manager = typed("envoy.filters.network.http_connection_manager", of, manager);
    json!({
        "admin": {"address": address(admin)},
        "static_resources": {
            "clusters": [
                cluster(CLUSTER, address(host)),
                over_http2(cluster("evenkeel", json!({"pipe": {"path": sidecar}}))),
                over_http2(cluster("otlp", address(otlp))),
            ],
            "listeners": [{
                "name": "edge",
                "address": address(port),
                "filter_chains": [{"filters": [manager]}],
            }],
        },
    })
}

async fn is_one_trace(traced: &Traced) -> HashMap<String, Span> {
    let spans = traced.spans().await;
    traced.assert_one_trace();
    let envoy = &spans["envoy"];
    for name in ["evenkeel.admit", "evenkeel.settle"] {
        assert_eq!(hex(&spans[name].parent_span_id), hex(&envoy.span_id), "{name}");
        assert_eq!(traced.calls(&spans[name]), ["evenkeel.store commit", "evenkeel.store count"]);
    }
    // Envoy has a span of its own for the call of its filter.
    let call = &spans["evenkeel.rate_limit"];
    let of_filter = spans.values().find(|span| span.span_id == call.parent_span_id);
    let of_filter = of_filter.unwrap_or_else(|| panic!("whose child is {call:?} among {spans:#?}"));
    assert_eq!(hex(&of_filter.parent_span_id), hex(&envoy.span_id));
    assert_eq!(traced.calls(call), ["evenkeel.store count"]);
    spans
}

#[tokio::test]
async fn a_clients_trace_goes_on_through_envoy_to_redis() {
    let Some(traced) = Traced::start(100).await else { return };
    let not_sampled = format!("00-{}-{CLIENT}-00", TRACE.replace('0', "1"));
    traced.ask(&[("traceparent", &not_sampled)]).await;
    traced.ask(&[("traceparent", &format!("00-{TRACE}-{CLIENT}-01"))]).await;
    let spans = is_one_trace(&traced).await;
    assert_eq!(hex(&spans["envoy"].trace_id), TRACE);
    assert_eq!(hex(&spans["envoy"].parent_span_id), CLIENT);
}

#[tokio::test]
async fn a_trace_that_envoy_begins_goes_on_to_redis() {
    let Some(traced) = Traced::start(0).await else { return };
    // Not sampled, whatever the client says of its own.
    traced.ask(&[]).await;
    traced.ask(&[("traceparent", &format!("00-{TRACE}-{CLIENT}-01"))]).await;
    // This header asks for a trace.
    traced.ask(&[("x-client-trace-id", "of the client")]).await;
    let spans = is_one_trace(&traced).await;
    assert!(spans["envoy"].parent_span_id.is_empty());
}
