//! A Kubernetes API server that serves only EndpointSlices. It lists and watches them, and misbehaves if a test asks it
//! to. Versions, events, bookmarks, status 410 and errors follow the page "Kubernetes API Concepts".

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
    routing::get,
};
use futures::stream;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, time::Instant};

/// A request that the server received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) is_watch: bool,
    pub(crate) namespace: String,
    pub(crate) service: String,
    /// The resource version at which a watch starts.
    pub(crate) version: String,
    pub(crate) token: Option<String>,
}

#[derive(Default)]
struct World {
    /// Slices by namespace and name.
    slices: BTreeMap<(String, String), Value>,
    version: u64,
    /// Each change has a version, a namespace, a service, and the line that a watch sends.
    events: Vec<(u64, String, String, String)>,
    /// A watch from an older version gets status 410.
    oldest: u64,
    /// The status of every response, if set.
    fault: Option<u16>,
    /// Whether a watch reports 410 in its first event instead of its HTTP status.
    gone_in_stream: bool,
    /// Watches with a number up to `muted` get no more events. Watches with a number up to `ended` end.
    muted: usize,
    ended: usize,
    watches: usize,
    asked: Vec<Asked>,
}

pub(crate) struct FakeApi {
    pub(crate) port: u16,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    world: Mutex<World>,
    changed: watch::Sender<()>,
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeApi {
    pub(crate) fn router() -> (Router, impl FnOnce(u16, tokio::task::JoinHandle<()>) -> Self) {
        let world = World { version: 100, ..World::default() };
        let shared = Arc::new(Shared { world: Mutex::new(world), changed: watch::Sender::default() });
        let path = "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices";
        let router = Router::new().route(path, get(answer)).with_state(Arc::clone(&shared));
        (router, move |port, task| Self { port, shared, task })
    }

    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (router, finish) = Self::router();
        finish(port, tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }))
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn change(&self, change: impl FnOnce(&mut World)) {
        change(&mut self.shared.world.lock());
        self.shared.changed.send_replace(());
    }

    /// Adds or replaces a slice of `models/llm`.
    pub(crate) fn put(&self, name: &str, endpoints: &[Value]) {
        self.put_slice("models", "llm", name, slice("IPv4", 8000, endpoints));
    }

    pub(crate) fn put_slice(&self, namespace: &str, service: &str, name: &str, mut slice: Value) {
        slice["metadata"] = json!({"name": name, "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service}});
        self.change(|world| {
            let key = (namespace.to_owned(), name.to_owned());
            let kind = if world.slices.contains_key(&key) { "MODIFIED" } else { "ADDED" };
            world.happens(kind, &mut slice);
            world.slices.insert(key, slice);
        });
    }

    /// Deletes a slice of `models`.
    pub(crate) fn delete(&self, name: &str) {
        self.change(|world| {
            let mut slice = world.slices.remove(&("models".to_owned(), name.to_owned())).unwrap();
            world.happens("DELETED", &mut slice);
        });
    }

    /// Sends a bookmark to all watches.
    pub(crate) fn bookmark(&self) {
        self.change(|world| {
            world.version += 1;
            let version = world.version;
            let event = json!({"type": "BOOKMARK", "object": {"kind": "EndpointSlice",
                "apiVersion": "discovery.k8s.io/v1",
                "metadata": {"resourceVersion": version.to_string()}}});
            for service in ["llm", "other"] {
                world.events.push((version, "models".to_owned(), service.to_owned(), format!("{event}\n")));
            }
        });
    }

    /// Discards all changes so far, so that older watches get 410.
    pub(crate) fn compact(&self) {
        self.change(|world| {
            world.events.clear();
            world.version += 1;
            world.oldest = world.version;
        });
    }

    /// Sets how a watch reports 410: in an event, or as its HTTP status.
    pub(crate) fn report_gone_in_stream(&self, in_stream: bool) {
        self.change(|world| world.gone_in_stream = in_stream);
    }

    pub(crate) fn fail_with(&self, status: Option<u16>) {
        self.change(|world| world.fault = status);
    }

    /// Stops sending events to the current watches.
    pub(crate) fn mute(&self) {
        self.change(|world| world.muted = world.watches);
    }

    /// Ends the current watches, as an API server does from time to time.
    pub(crate) fn end_watches(&self) {
        self.change(|world| world.ended = world.watches);
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.world.lock().asked.clone()
    }

    pub(crate) fn lists(&self) -> usize {
        self.asked().iter().filter(|asked| !asked.is_watch).count()
    }

    pub(crate) fn watches(&self) -> usize {
        self.asked().iter().filter(|asked| asked.is_watch).count()
    }
}

impl World {
    fn happens(&mut self, kind: &str, slice: &mut Value) {
        self.version += 1;
        slice["metadata"]["resourceVersion"] = self.version.to_string().into();
        let mut object = slice.clone();
        object["kind"] = "EndpointSlice".into();
        object["apiVersion"] = "discovery.k8s.io/v1".into();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let metadata = &slice["metadata"];
        let service = text(&metadata["labels"]["kubernetes.io/service-name"]);
        let event = format!("{}\n", json!({"type": kind, "object": object}));
        self.events.push((self.version, text(&metadata["namespace"]), service, event));
    }
}

/// Returns a slice with one port, named `http`.
pub(crate) fn slice(family: &str, port: u16, endpoints: &[Value]) -> Value {
    json!({"addressType": family, "ports": [{"name": "http", "port": port, "protocol": "TCP"}], "endpoints": endpoints})
}

pub(crate) fn ready(address: &str) -> Value {
    json!({"addresses": [address], "conditions": {"ready": true, "serving": true, "terminating": false}})
}

/// Returns an endpoint of a pod that fails its readiness probe.
pub(crate) fn not_ready(address: &str) -> Value {
    json!({"addresses": [address], "conditions": {"ready": false, "serving": false, "terminating": false}})
}

/// Returns an endpoint of a terminating pod.
pub(crate) fn terminating(address: &str) -> Value {
    json!({"addresses": [address], "conditions": {"ready": false, "serving": true, "terminating": true}})
}

fn failure(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
        "reason": reason, "message": format!("the test wants {reason}")})
}

fn status(code: u16, reason: &str) -> Response {
    (StatusCode::from_u16(code).unwrap(), Json(failure(code, reason))).into_response()
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    Path(namespace): Path<String>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let text = |name: &str| query.get(name).cloned().unwrap_or_default();
    let selector = text("labelSelector");
    let Some(service) = selector.strip_prefix("kubernetes.io/service-name=").map(str::to_owned) else {
        return status(400, "BadRequest");
    };
    let is_watch = text("watch") == "true";
    let version = text("resourceVersion");
    let token = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    let mut world = shared.world.lock();
    world.asked.push(Asked {
        is_watch,
        namespace: namespace.clone(),
        service: service.clone(),
        version: version.clone(),
        token,
    });
    if let Some(code) = world.fault {
        return status(code, if code == 403 { "Forbidden" } else { "InternalError" });
    }
    if !is_watch {
        let of_service =
            |slice: &&Value| slice["metadata"]["labels"]["kubernetes.io/service-name"] == *service;
        let slices = world.slices.iter().filter(|((of, _), _)| *of == namespace).map(|(_, slice)| slice);
        let items: Vec<_> = slices.filter(of_service).collect();
        return Json(json!({"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1",
            "metadata": {"resourceVersion": world.version.to_string()}, "items": items}))
        .into_response();
    }
    let Ok(from) = version.parse::<u64>() else { return status(400, "BadRequest") };
    if from < world.oldest {
        if !world.gone_in_stream {
            return status(410, "Expired");
        }
        return format!("{}\n", json!({"type": "ERROR", "object": failure(410, "Expired")})).into_response();
    }
    world.watches += 1;
    let number = world.watches;
    drop(world);
    let seconds = text("timeoutSeconds").parse().unwrap_or(300);
    let watcher = Watcher {
        number,
        from,
        namespace,
        service,
        until: Instant::now() + Duration::from_secs(seconds),
        changed: shared.changed.subscribe(),
        shared: Arc::clone(&shared),
    };
    Body::from_stream(stream::unfold(watcher, Watcher::next)).into_response()
}

struct Watcher {
    number: usize,
    from: u64,
    namespace: String,
    service: String,
    until: Instant,
    shared: Arc<Shared>,
    changed: watch::Receiver<()>,
}

/// What a watch sends next.
enum Next {
    Lines(String),
    End,
    Wait,
    Silence,
}

impl Watcher {
    fn look(&mut self) -> Next {
        let world = self.shared.world.lock();
        if world.muted >= self.number {
            return Next::Silence;
        }
        if world.ended >= self.number {
            return Next::End;
        }
        if self.from < world.oldest {
            // A watch that is too slow gets 410 too.
            return Next::Lines(format!("{}\n", json!({"type": "ERROR", "object": failure(410, "Expired")})));
        }
        let mut lines = String::new();
        for (version, namespace, service, line) in &world.events {
            if *version > self.from && (namespace, service) == (&self.namespace, &self.service) {
                lines.push_str(line);
            }
        }
        if lines.is_empty() {
            return Next::Wait;
        }
        self.from = world.version;
        Next::Lines(lines)
    }

    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        loop {
            self.changed.mark_unchanged();
            match self.look() {
                Next::Lines(lines) => return Some((Ok(lines.into()), self)),
                Next::End => return None,
                Next::Silence => std::future::pending().await,
                Next::Wait => tokio::select! {
                    changed = self.changed.changed() => if changed.is_err() { return None },
                    () = tokio::time::sleep_until(self.until) => return None,
                },
            }
        }
    }
}
