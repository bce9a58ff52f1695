//! One server: sends calls to it, judges from the answers whether it can serve, and probes it while it cannot.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use evenkeel_domain::StoreError;
use redis::{Cmd, ErrorKind, RedisError, Value, aio::ConnectionLike as _, aio::MultiplexedConnection};
use tokio::{sync::Notify, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use super::{
    access::{Access, Address},
    causes::Causes,
    circuit::{Circuit, Outages, PROBE_INTERVAL, State, first_wait},
    connections::{CONNECTIONS_MAX, CheckedOut, Connections, NoConnection},
    script::probe_command,
};

/// Number of consecutive timeouts after which the sidecar gives up the server's connections. A lost packet or a fork of
/// Redis causes fewer timeouts.
const TIMEOUTS_MAX: u32 = 3;

/// The connection and timeout of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// A request waits for the call: the held connection and the short timeout.
    Request,
    /// No request waits: another connection and the long timeout.
    Beside,
}

/// What the nodes of one store share.
pub(super) struct Shared {
    pub(super) access: Access,
    pub(super) timeout: Duration,
    pub(super) timeout_beside: Duration,
    pub(super) outages: Arc<Outages>,
    pub(super) has_slots: bool,
    /// Whether requests use the store. If not, nodes hold no connection for them, and have no circuit breaker.
    pub(super) serves_requests: bool,
    /// Whether the last call found its server lost. Without requests, there is no circuit breaker that would know.
    pub(super) last_call_failed: AtomicBool,
    /// Notified when a node is lost, and when a node answers that another has a slot.
    pub(super) changed: Arc<Notify>,
    pub(super) tasks: TaskTracker,
    pub(super) shutdown: CancellationToken,
}

pub(super) struct Node {
    connections: Connections,
    circuit: Circuit,
    shared: Arc<Shared>,
    /// The key that probes write: on a cluster, in one of the node's slots. Without slots, probes write nothing.
    probe_key: parking_lot::Mutex<Option<String>>,
    /// Number of answers to calls, of any kind, without errors.
    answers: AtomicU64,
    retired: CancellationToken,
}

/// The state of the server, judged by a call.
enum Standing {
    /// The server answered, and the connection works.
    Answered(Result<Value, RedisError>),
    /// The server answered that it cannot serve. Another connection may reach one that can.
    Unfit(RedisError),
    /// The connection is lost.
    Gone(RedisError),
    /// The server did not answer in time.
    Silent,
}

impl Node {
    pub(super) fn new(address: Address, shared: Arc<Shared>) -> Arc<Self> {
        let access = Arc::new(shared.access.clone());
        let node = Arc::new(Self {
            connections: Connections::new(address, access),
            circuit: Circuit::new(Arc::clone(&shared.outages)),
            probe_key: parking_lot::Mutex::default(),
            answers: AtomicU64::new(0),
            retired: shared.shutdown.child_token(),
            shared,
        });
        if node.shared.serves_requests {
            node.start_probe(Duration::ZERO, Duration::ZERO, Causes::default());
        }
        node
    }

    pub(super) fn address(&self) -> &Address {
        self.connections.address()
    }

    pub(super) fn is_usable(&self) -> bool {
        matches!(self.circuit.state(), State::Closed | State::Unknown)
    }

    /// Sets the key that probes write.
    pub(super) fn set_probe_key(&self, key: Option<String>) {
        *self.probe_key.lock() = key;
    }

    /// Ends the use of a server that no longer belongs to the store.
    pub(super) fn retire(&self) {
        self.retired.cancel();
        self.circuit.retire();
        self.connections.drop_all(self.connections.generation());
    }

    /// Sends one command and waits for its answer until `deadline`. The inner error is one that Redis answered. On a
    /// cluster, `asking` makes a node execute the command although the slot is still moving to it.
    pub(super) async fn query(
        self: &Arc<Self>,
        cmd: &Cmd,
        way: Way,
        asking: bool,
        deadline: Instant,
    ) -> Result<Result<Value, RedisError>, StoreError> {
        if !self.is_usable() {
            return Err(StoreError::NotSent(format!("{} is lost", self.address())));
        }
        match way {
            Way::Request => self.request(cmd, asking, deadline).await,
            Way::Beside => self.beside(cmd, asking).await,
        }
    }

    async fn request(
        self: &Arc<Self>,
        cmd: &Cmd,
        asking: bool,
        deadline: Instant,
    ) -> Result<Result<Value, RedisError>, StoreError> {
        let not_connected = || StoreError::NotSent(format!("not connected to {} yet", self.address()));
        let held = self.connections.held().ok_or_else(not_connected)?;
        match self.send(held.connection.clone(), cmd, asking, deadline).await {
            Standing::Answered(answer) => {
                if held.timeouts.load(Ordering::Relaxed) != 0 {
                    held.timeouts.store(0, Ordering::Relaxed);
                }
                Ok(answer)
            }
            Standing::Unfit(error) => Err(self.refused(held.generation, &error)),
            Standing::Gone(error) => Err(self.lost(held.generation, &error.to_string())),
            Standing::Silent => {
                let timeouts = held.timeouts.fetch_add(1, Ordering::Relaxed) + 1;
                if timeouts >= TIMEOUTS_MAX {
                    self.lost(held.generation, &format!("no answer to {timeouts} calls in a row"));
                }
                Err(StoreError::Timeout(self.shared.timeout.as_millis() as u64))
            }
        }
    }

    async fn beside(
        self: &Arc<Self>,
        cmd: &Cmd,
        asking: bool,
    ) -> Result<Result<Value, RedisError>, StoreError> {
        let limit = self.shared.timeout_beside;
        let generation = self.connections.generation();
        let no_connection = |error| match error {
            NoConnection::Busy => StoreError::Overloaded(CONNECTIONS_MAX),
            NoConnection::Failed(error) => {
                let error = self.lost(generation, &error.reason());
                StoreError::Refused(error.to_string())
            }
        };
        let mut checked_out = self.connections.check_out(limit).await.map_err(no_connection)?;
        let answers = self.answers.load(Ordering::Relaxed);
        let mut standing = self.send_over(&checked_out, cmd, asking).await;
        // The server may have closed an idle connection. Every script may be repeated.
        if checked_out.is_reused() && matches!(standing, Standing::Gone(_)) {
            checked_out = self.connections.replace(checked_out, limit).await.map_err(no_connection)?;
            standing = self.send_over(&checked_out, cmd, asking).await;
        }
        let used = checked_out.generation();
        if !matches!(standing, Standing::Answered(_)) {
            checked_out.close();
        }
        match standing {
            Standing::Answered(answer) => Ok(answer),
            Standing::Unfit(error) => Err(self.refused(used, &error)),
            Standing::Gone(error) => Err(self.lost(used, &error.to_string())),
            Standing::Silent => {
                let ms = limit.as_millis() as u64;
                if self.answers.load(Ordering::Relaxed) == answers {
                    self.lost(used, &format!("no answer within {ms} ms"));
                } else {
                    // If this connection is dead without notice, the others probably are too.
                    self.connections.drop_idle();
                }
                Err(StoreError::Timeout(ms))
            }
        }
    }

    /// Sends a call that no request waits for. The call ends early if another call finds the server lost.
    async fn send_over(&self, checked_out: &CheckedOut, cmd: &Cmd, asking: bool) -> Standing {
        // The wait for a free connection does not count.
        let deadline = Instant::now() + self.shared.timeout_beside;
        tokio::select! {
            standing = self.send(checked_out.connection(), cmd, asking, deadline) => standing,
            () = checked_out.dropped() => {
                Standing::Gone(std::io::Error::from(std::io::ErrorKind::ConnectionAborted).into())
            }
        }
    }

    /// Gives up the server because it answered that it cannot serve. It has not applied the call.
    fn refused(self: &Arc<Self>, generation: u64, error: &RedisError) -> StoreError {
        StoreError::Refused(self.lost(generation, &error.to_string()).to_string())
    }

    /// Gives up all connections of this generation, opens the circuit breaker and starts to probe.
    fn lost(self: &Arc<Self>, generation: u64, cause: &str) -> StoreError {
        let error = StoreError::Unavailable(format!("{}: {cause}", self.address()));
        if !self.connections.drop_all(generation) {
            return error;
        }
        self.shared.last_call_failed.store(true, Ordering::Relaxed);
        self.shared.changed.notify_one();
        // If no request waits for the store, each call may try to connect.
        if self.shared.serves_requests
            && let Some(interval) = self.circuit.open()
        {
            warn!(%error, "store down: serving from local knowledge");
            let mut causes = Causes::default();
            causes.is_new(cause);
            self.start_probe(first_wait(interval), interval, causes);
        }
        error
    }

    fn start_probe(self: &Arc<Self>, first_wait: Duration, interval: Duration, logged: Causes) {
        let node = Arc::clone(self);
        // The task ends when the server answers, leaves the store, or the sidecar stops.
        self.shared.tasks.spawn(async move {
            let retired = node.retired.clone();
            tokio::select! {
                () = node.probe(first_wait, interval, logged) => {}
                () = retired.cancelled() => {}
            }
        });
    }

    async fn probe(self: &Arc<Self>, mut wait: Duration, mut interval: Duration, mut logged: Causes) {
        let since = Instant::now();
        let was_lost = self.circuit.state() == State::Open;
        loop {
            tokio::time::sleep(wait).await;
            match self.probe_once().await {
                Ok(connection) => {
                    self.connections.hold(connection);
                    break;
                }
                Err(cause) => {
                    let is_new = logged.is_new(&cause);
                    // The first probe of a new node, which nothing has found lost before.
                    if let Some(first) = self.circuit.open() {
                        warn!(server = %self.address(), cause, "store down: serving from local knowledge");
                        interval = first;
                    } else if is_new {
                        warn!(server = %self.address(), cause, "store still down");
                    }
                    self.shared.changed.notify_one();
                }
            }
            // Another call may have opened the circuit breaker before the first probe failed.
            wait = interval.max(PROBE_INTERVAL);
        }
        self.circuit.close();
        if was_lost {
            info!(server = %self.address(), after_ms = since.elapsed().as_millis() as u64, "store up again");
        }
    }

    /// Connects anew, and checks that the server accepts writes. A connection from before may lead elsewhere, or be dead.
    async fn probe_once(&self) -> Result<MultiplexedConnection, String> {
        let connection = self.connections.connect().await.map_err(|error| error.reason())?;
        let key = self.probe_key.lock().clone();
        let cmd = key.map_or_else(|| redis::cmd("PING"), |key| probe_command(&key));
        let deadline = Instant::now() + self.shared.timeout_beside;
        match self.send(connection.clone(), &cmd, false, deadline).await {
            Standing::Answered(Ok(_)) => Ok(connection),
            Standing::Answered(Err(error)) if is_moved(&error) => Ok(connection),
            Standing::Answered(Err(error)) | Standing::Unfit(error) | Standing::Gone(error) => {
                Err(error.to_string())
            }
            Standing::Silent => Err("no answer to a probe".to_owned()),
        }
    }

    async fn send(
        &self,
        mut connection: MultiplexedConnection,
        cmd: &Cmd,
        asking: bool,
        deadline: Instant,
    ) -> Standing {
        let answer = tokio::time::timeout_at(deadline, async {
            if !asking {
                return connection.req_packed_command(cmd).await;
            }
            let mut pipeline = redis::pipe();
            pipeline.cmd("ASKING").add_command(cmd.clone());
            let answers = connection.req_packed_commands(&pipeline, 1, 1).await?;
            Ok(answers.into_iter().next().unwrap_or(Value::Nil))
        });
        match answer.await.map(|answer| answer.and_then(Value::extract_error)) {
            Ok(Ok(value)) => {
                self.answers.fetch_add(1, Ordering::Relaxed);
                if self.shared.last_call_failed.load(Ordering::Relaxed) {
                    self.shared.last_call_failed.store(false, Ordering::Relaxed);
                }
                Standing::Answered(Ok(value))
            }
            Ok(Err(error)) => stand(error, self.shared.has_slots),
            Err(_elapsed) => Standing::Silent,
        }
    }
}

/// Whether a node of a cluster answers that another node has the slot.
pub(super) fn is_moved(error: &RedisError) -> bool {
    error.code().is_some_and(|code| matches!(code, "MOVED" | "ASK"))
}

/// Derives the state of the server from an error's kind and code. On a cluster, some errors concern only one slot.
fn stand(error: RedisError, has_slots: bool) -> Standing {
    const UNFIT: [&str; 7] =
        ["READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "NOREPLICAS", "MISCONF", "OOM"];
    const OF_A_SLOT: [&str; 3] = ["MOVED", "ASK", "TRYAGAIN"];
    let is_one_of = |codes: &[&str]| error.code().is_some_and(|code| codes.contains(&code));
    match error.kind() {
        _ if error.is_timeout() => Standing::Silent,
        _ if is_one_of(&UNFIT) => Standing::Unfit(error),
        _ if is_one_of(&OF_A_SLOT) && !has_slots => Standing::Unfit(error),
        ErrorKind::Server(_) | ErrorKind::Extension => Standing::Answered(Err(error)),
        _ => Standing::Gone(error),
    }
}

impl Shared {
    /// Returns whether a server is lost.
    pub(super) fn is_any_lost(&self) -> bool {
        self.outages.any_lost() || self.last_call_failed.load(Ordering::Relaxed)
    }

    /// Waits until the watch on servers looks again. `failed`: whether it has just failed to look.
    pub(super) async fn wait_to_look(&self, failed: bool) {
        /// A failover of a cluster or by sentinels takes seconds, so this adds little.
        const WHILE_LOST: Duration = Duration::from_millis(250);
        /// Finds nodes that joined, and a primary that was replaced without an error on the connections.
        const OTHERWISE: Duration = Duration::from_secs(1);
        /// A lost server notifies at once and after every probe, and many calls may be redirected at once. One look
        /// serves all of them.
        const SETTLE: Duration = Duration::from_millis(20);
        let wait = if failed || self.outages.any_lost() { WHILE_LOST } else { OTHERWISE };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = self.changed.notified() => tokio::time::sleep(SETTLE).await,
        }
    }
}

#[cfg(test)]
impl Shared {
    /// Returns what nodes share in a store that no request uses.
    pub(super) fn of_tests(has_slots: bool) -> Arc<Self> {
        let timeout = Duration::from_secs(1);
        let parsed = Access::parse("redis://127.0.0.1:1", None, Default::default(), timeout, timeout);
        Arc::new(Self {
            access: parsed.unwrap().1,
            timeout,
            timeout_beside: timeout,
            outages: Outages::new(None),
            has_slots,
            serves_requests: false,
            last_call_failed: AtomicBool::new(false),
            changed: Arc::default(),
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_judged_by_what_another_connection_could_change() {
        let server = |code: &'static str| redis::make_extension_error(code.to_owned(), None);
        for code in ["READONLY", "OOM", "MISCONF", "MASTERDOWN"] {
            assert!(matches!(stand(server(code), false), Standing::Unfit(_)), "{code}");
        }
        for code in ["NOPERM", "WRONGTYPE", "ERR"] {
            assert!(matches!(stand(server(code), false), Standing::Answered(Err(_))), "{code}");
        }
        // On a cluster, one moving slot must not give up the node for all others.
        for code in ["MOVED", "ASK", "TRYAGAIN"] {
            assert!(matches!(stand(server(code), true), Standing::Answered(Err(_))), "{code}");
            assert!(matches!(stand(server(code), false), Standing::Unfit(_)), "{code}");
        }
        let io = RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        assert!(matches!(stand(io, false), Standing::Gone(_)));
    }
}
