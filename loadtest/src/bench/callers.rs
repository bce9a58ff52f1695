//! Callers in a closed loop: each has one call under way, and makes the next when it is answered.

use std::{
    cell::{Cell, RefCell},
    path::PathBuf,
    rc::Rc,
    time::{Duration, Instant},
};

use evenkeel_proto::v1::{
    AdmitRequest, HeldPool, KeepAliveRequest, Outcome, Pool, SettleRequest, admit_response::Answer,
    gateway_client::GatewayClient,
};
use hdrhistogram::Histogram;
use hyper_util::rt::TokioIo;
use tokio::task::LocalSet;
use tonic::transport::{Channel, Endpoint, Uri};

use super::{BenchConfig, limited, script::PickScript};
use crate::lab::{CLUSTER, LabError, Ready};

const WARM_UP: Duration = Duration::from_millis(500);
const KEEP_ALIVE_EVERY: Duration = Duration::from_millis(500);

/// Whom to call.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// A gRPC server of `evenkeel.v1.Gateway` over TCP.
    Tcp(String),
    /// The same over a Unix socket.
    Unix(PathBuf),
    /// The same, for requests that limits apply to.
    Limited(Box<Target>),
    /// The rate limit service of a gRPC server, for one of many keys at a time.
    RateLimits {
        /// The server.
        server: Box<Target>,
        /// Key of the descriptor.
        key: &'static str,
    },
    /// A fixed window in Redis, for one of many keys at a time.
    Window {
        /// Where Redis is.
        url: String,
    },
    /// A script in Redis.
    Script {
        /// Where Redis is.
        url: String,
        /// Endpoints to choose from.
        endpoints: usize,
        /// By Evenkeel's rule rather than naively.
        by_rule: bool,
    },
}

impl Target {
    /// The listener a ready file names, if it names one.
    pub(crate) fn gateway(ready: &Ready, unix: bool) -> Option<Self> {
        if unix {
            ready.grpc_socket.clone().map(Self::Unix)
        } else {
            ready.grpc.clone().map(|address| Self::Tcp(format!("http://{address}")))
        }
    }

    /// One connection to a gateway service.
    pub(crate) async fn gateway_client(&self) -> Result<GatewayClient<Channel>, LabError> {
        Ok(GatewayClient::new(self.connect().await?))
    }

    /// One connection to a server.
    async fn connect(&self) -> Result<Channel, LabError> {
        let failed = |fault: tonic::transport::Error| LabError::Answer {
            what: format!("connecting to {self:?}: {fault}"),
        };
        let channel = match self {
            Self::Tcp(url) => Endpoint::from_shared(url.clone())
                .map_err(failed)?
                .tcp_nodelay(true)
                .connect()
                .await
                .map_err(failed)?,
            Self::Unix(path) => {
                let path = path.clone();
                // The URI is for the headers only: the socket is where the connection goes.
                let connector = tower::service_fn(move |_: Uri| {
                    let path = path.clone();
                    async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
                });
                Endpoint::from_static("http://localhost")
                    .connect_with_connector(connector)
                    .await
                    .map_err(failed)?
            }
            Self::Limited(server) | Self::RateLimits { server, .. } => Box::pin(server.connect()).await?,
            Self::Script { .. } | Self::Window { .. } => {
                return Err(LabError::Builder("a script is not a gRPC server"));
            }
        };
        Ok(channel)
    }
}

/// What the callers saw.
#[derive(Debug)]
pub(crate) struct Loop<C> {
    pub(crate) calls: u64,
    pub(crate) admits: u64,
    pub(crate) errors: u64,
    pub(crate) wall: Duration,
    pub(crate) latency_us: Histogram<u64>,
    pub(crate) cpu_before: C,
    pub(crate) cpu_after: C,
}

/// Counts shared by all callers of one thread.
#[derive(Debug)]
pub(super) struct Tally {
    /// Counting has begun: the warm-up is over.
    counting: Cell<bool>,
    pub(super) stop: Cell<bool>,
    calls: Cell<u64>,
    admits: Cell<u64>,
    errors: Cell<u64>,
    latency_us: RefCell<Histogram<u64>>,
}

impl Tally {
    pub(super) fn call(&self, start: Instant, admit: bool, ok: bool) {
        if !self.counting.get() {
            return;
        }
        self.calls.set(self.calls.get() + 1);
        self.admits.set(self.admits.get() + u64::from(admit));
        self.errors.set(self.errors.get() + u64::from(!ok));
        self.latency_us.borrow_mut().saturating_record(start.elapsed().as_micros().max(1) as u64);
    }
}

/// Calls for `config.run`, after a warm-up, on the current thread. `cpu` is asked at the beginning and at the end.
pub(crate) fn closed_loop<C>(
    target: &Target,
    config: &BenchConfig,
    cpu: impl Fn() -> C,
) -> Result<Loop<C>, LabError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LabError::io("starting a runtime"))?;
    let latency_us = Histogram::new_with_bounds(1, 60_000_000, 3)
        .map_err(|_| LabError::Builder("the histogram's bounds are wrong"))?;
    let tally = Rc::new(Tally {
        counting: Cell::new(false),
        stop: Cell::new(false),
        calls: Cell::new(0),
        admits: Cell::new(0),
        errors: Cell::new(0),
        latency_us: RefCell::new(latency_us),
    });
    let local = LocalSet::new();
    let (wall, cpu_before, cpu_after) = local.block_on(&runtime, async {
        let callers = start(target, config, &tally).await?;
        tokio::time::sleep(WARM_UP).await;
        let (cpu_before, begin) = (cpu(), Instant::now());
        tally.counting.set(true);
        tokio::time::sleep(config.run).await;
        tally.counting.set(false);
        let (wall, cpu_after) = (begin.elapsed(), cpu());
        tally.stop.set(true);
        for caller in callers {
            let _ = caller.await;
        }
        Ok::<_, LabError>((wall, cpu_before, cpu_after))
    })?;
    let latency_us = tally.latency_us.borrow().clone();
    Ok(Loop {
        calls: tally.calls.get(),
        admits: tally.admits.get(),
        errors: tally.errors.get(),
        wall,
        latency_us,
        cpu_before,
        cpu_after,
    })
}

async fn start(
    target: &Target,
    config: &BenchConfig,
    tally: &Rc<Tally>,
) -> Result<Vec<tokio::task::JoinHandle<()>>, LabError> {
    let mut callers = Vec::new();
    let connections = config.connections.clamp(1, config.callers.max(1));
    let mut per_connection = vec![config.callers / connections; connections];
    per_connection[0] += config.callers % connections;
    for (number, n) in per_connection.into_iter().enumerate() {
        if let Target::Script { url, endpoints, by_rule } = target {
            let script = PickScript::connect(url, *endpoints, *by_rule).await?;
            for _ in 0..n {
                callers.push(tokio::task::spawn_local(picks(script.clone(), Rc::clone(tally))));
            }
            continue;
        }
        if let Target::Window { url } = target {
            let connection = crate::lab::connect_redis(url).await?;
            for _ in 0..n {
                let counts = super::rate_limits::counts(connection.clone(), Rc::clone(tally));
                callers.push(tokio::task::spawn_local(counts));
            }
            continue;
        }
        let channel = target.connect().await?;
        if let Target::RateLimits { key, .. } = target {
            for _ in 0..n {
                let asks = super::rate_limits::asks(channel.clone(), key, Rc::clone(tally));
                callers.push(tokio::task::spawn_local(asks));
            }
            continue;
        }
        let client = GatewayClient::new(channel);
        // One holder a connection, as one worker of a gateway has.
        let holder = format!("bench-{}-{number}-{}", std::process::id(), rand::random::<u32>());
        let lease = Rc::new(Cell::new(0u64));
        callers.push(tokio::task::spawn_local(keep_alive(client.clone(), holder.clone(), Rc::clone(tally))));
        for _ in 0..n {
            let limited = matches!(target, Target::Limited(_));
            let requests =
                admits(client.clone(), holder.clone(), Rc::clone(&lease), limited, Rc::clone(tally));
            callers.push(tokio::task::spawn_local(requests));
        }
    }
    Ok(callers)
}

/// The pool every call is about.
pub(crate) fn pool() -> Pool {
    Pool { route: String::new(), cluster: CLUSTER.into() }
}

/// An Admit as a gateway sends it.
pub(crate) fn admit_request(holder: &str, lease: u64) -> AdmitRequest {
    AdmitRequest {
        pool: Some(pool()),
        holder: holder.into(),
        lease,
        model: "mock".into(),
        prompt_bytes: 4000,
        ..AdmitRequest::default()
    }
}

/// The Settle that belongs to it.
pub(crate) fn settle_request(holder: &str, lease: u64) -> SettleRequest {
    SettleRequest {
        pool: Some(pool()),
        holder: holder.into(),
        lease,
        outcome: Outcome::Success.into(),
        status: 200,
        first_token_ms: 120,
        total_ms: 4000,
        model: "mock".into(),
        ..SettleRequest::default()
    }
}

async fn admits(
    mut client: GatewayClient<Channel>,
    holder: String,
    lease: Rc<Cell<u64>>,
    limited: bool,
    tally: Rc<Tally>,
) {
    while !tally.stop.get() {
        let number = lease.get() + 1;
        lease.set(number);
        let (admit, mut settle) = (admit_request(&holder, number), settle_request(&holder, number));
        let admit = if limited { limited::admit(admit) } else { admit };
        let start = Instant::now();
        let admitted = match client.admit(admit).await.map(|answer| answer.into_inner().answer) {
            Ok(Some(Answer::Admitted(admitted))) => {
                settle.ticket = admitted.ticket;
                !admitted.endpoint.is_empty()
            }
            _ => false,
        };
        tally.call(start, true, admitted);
        let settle = if limited { limited::settle(settle) } else { settle };
        let start = Instant::now();
        let settled = client.settle(settle).await;
        tally.call(start, false, settled.is_ok_and(|s| s.into_inner().released));
    }
}

async fn keep_alive(mut client: GatewayClient<Channel>, holder: String, tally: Rc<Tally>) {
    while !tally.stop.get() {
        let held = HeldPool { pool: Some(pool()), ..HeldPool::default() };
        // A list that claims nothing about any lease: it only keeps the holder alive.
        let _ = client
            .keep_alive(KeepAliveRequest { holder: holder.clone(), issued_through: 0, pools: vec![held] })
            .await;
        tokio::time::sleep(KEEP_ALIVE_EVERY).await;
    }
}

async fn picks(mut script: PickScript, tally: Rc<Tally>) {
    while !tally.stop.get() {
        let start = Instant::now();
        let ok = script.pick().await.is_ok();
        tally.call(start, true, ok);
    }
}
