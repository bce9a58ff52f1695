use std::{convert::Infallible, io};

use axum::{
    body::{Body, Bytes},
    http::{Request, Response},
};
use futures::stream;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Notify;

use super::*;

#[test]
fn waits_double_up_to_a_bound() {
    let ms = Duration::from_millis;
    let waits = [1, 2, 3, 8, 9, 32, 33, u32::MAX].map(|n| retry_wait_max(n, ms(30_000)));
    assert_eq!(waits, [200, 400, 800, 25_600, 30_000, 30_000, 30_000, 30_000].map(ms));
    assert_eq!(retry_wait_max(1, ms(100)), ms(100));
}

#[test]
fn failures_name_the_remedy() {
    let of = |code: u16| {
        let status = Status { code, message: "why".to_owned(), ..Status::default() };
        Failure::new(&kube::Error::Api(Box::new(status)), "models")
    };
    assert_eq!(
        of(403).to_string(),
        "forbidden: the service account needs a Role in namespace models with get, list and watch of endpointslices \
         in discovery.k8s.io"
    );
    assert_eq!(of(401).to_string(), "the API server rejects the token");
    assert_eq!(of(500).to_string(), "the API server answers 500 why");
    assert!(matches!(of(410), Failure::Gone));
    let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
    let failure = Failure::new(&kube::Error::Service(Box::new(refused)), "models");
    assert_eq!(failure.to_string(), "no answer from the API server: connection refused");
    assert!(failure.is_of_connection() && !of(410).is_of_connection() && !of(504).is_of_connection());
}

/// An API server that a test can make unavailable. It serves one EndpointSlice with one endpoint.
struct Server {
    world: Mutex<World>,
    cut: Notify,
}

struct World {
    away: bool,
    version: u32,
    address: &'static str,
    lists: u32,
    attempts: u32,
}

impl Server {
    fn new() -> Arc<Self> {
        let world = World { away: false, version: 1, address: "10.0.0.1", lists: 0, attempts: 0 };
        Arc::new(Self { world: Mutex::new(world), cut: Notify::new() })
    }

    fn change(&self, address: &'static str) {
        let mut world = self.world.lock();
        (world.version, world.address) = (world.version + 1, address);
    }

    fn set_away(&self, away: bool) {
        self.world.lock().away = away;
        self.cut.notify_waiters();
    }

    fn answer(self: Arc<Self>, query: &str) -> io::Result<Response<Body>> {
        let mut world = self.world.lock();
        world.attempts += 1;
        if world.away {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let slice = json!({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
            "metadata": {"name": "llm-a", "resourceVersion": world.version.to_string()},
            "addressType": "IPv4", "ports": [{"port": 8000}], "endpoints": [{"addresses": [world.address]}]});
        if !query.contains("watch=true") {
            world.lists += 1;
            let list = json!({"metadata": {"resourceVersion": world.version.to_string()}, "items": [slice]});
            return Ok(Response::new(list.to_string().into()));
        }
        let is_behind = !query.contains(&format!("resourceVersion={}", world.version));
        let line = format!("{}\n", json!({"type": "MODIFIED", "object": slice}));
        drop(world);
        let change = stream::iter(is_behind.then(|| Ok::<_, Infallible>(Bytes::from(line))));
        let rest = stream::once(async move {
            self.cut.notified().await;
            Ok(Bytes::new())
        });
        Ok(Response::new(Body::from_stream(change.chain(rest))))
    }

    fn api(self: &Arc<Self>) -> Api<EndpointSlice> {
        let server = Arc::clone(self);
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let answer = Arc::clone(&server).answer(request.uri().query().unwrap_or_default());
            async move { answer }
        });
        Api::namespaced(kube::Client::new(service, "models"), "models")
    }
}

fn addresses(state: &watch::Sender<ServiceState>) -> Vec<String> {
    let port = evenkeel_domain::settings::ServicePort::Only { or: None };
    let slices = state.borrow().slices.clone().unwrap_or_default();
    let found = super::super::slices::endpoints(slices.values(), &port);
    found.addresses.iter().map(ToString::to_string).collect()
}

/// While the API server is away, the pool keeps its endpoints. The test uses virtual time and the default waits.
#[tokio::test(start_paused = true)]
async fn a_minute_without_the_api_server_changes_nothing() {
    let (server, metrics) = (Server::new(), Metrics::new().unwrap());
    let (options, state) = (KubernetesOptions::default(), watch::Sender::new(ServiceState::default()));
    let api = server.api();
    let mut watch = Watch::new("llm", &options, &state, &metrics);
    let following = async {
        loop {
            let failure = watch.attempt(&api, "models").await;
            watch.wait_for_retry(failure).await;
        }
    };
    let second = Duration::from_secs(1);
    let scenario = async {
        sleep(10 * second).await;
        assert_eq!((addresses(&state), state.borrow().up), (vec!["10.0.0.1:8000".to_owned()], true));
        let before = server.world.lock().attempts;

        server.set_away(true);
        sleep(30 * second).await;
        server.change("10.0.0.2");
        for _ in 0..30 {
            sleep(second).await;
            assert_eq!((addresses(&state), state.borrow().up), (vec!["10.0.0.1:8000".to_owned()], false));
        }
        // The attempts become less frequent.
        let attempts = server.world.lock().attempts - before;
        assert!((7..=12).contains(&attempts), "{attempts}");
        assert!(metrics.discovery.errors_kubernetes.get() >= 6);

        server.set_away(false);
        sleep(options.retry_max).await;
        assert_eq!((addresses(&state), state.borrow().up), (vec!["10.0.0.2:8000".to_owned()], true));
        assert_eq!(server.world.lock().lists, 1);
    };
    tokio::select! {
        () = following => {}
        () = scenario => {}
    }
}

/// Guards against starting watches without a pause if the API server ends each watch at once.
#[tokio::test(start_paused = true)]
async fn watches_that_end_at_once_are_restarted_less_and_less_often() {
    let (server, metrics) = (Server::new(), Metrics::new().unwrap());
    let (options, state) = (KubernetesOptions::default(), watch::Sender::new(ServiceState::default()));
    let api = server.api();
    let mut watch = Watch::new("llm", &options, &state, &metrics);
    let following = async {
        loop {
            let failure = watch.attempt(&api, "models").await;
            watch.wait_for_retry(failure).await;
        }
    };
    let cutting = async {
        for _ in 0..6000 {
            sleep(Duration::from_millis(10)).await;
            server.cut.notify_waiters();
        }
    };
    tokio::select! {
        () = following => {}
        () = cutting => {}
    }
    let attempts = server.world.lock().attempts;
    assert!((8..=14).contains(&attempts), "{attempts}");
    assert_eq!(addresses(&state), ["10.0.0.1:8000"]);
}
