//! One host: an engine on the wall clock, and who waits for which sequence.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};

use super::{Clock, HostStats, Served, ServedEnd};
use crate::engine::{Engine, EngineParams, EngineTotals};

/// Most requests in the account of one host; further ones are served and not written down.
const ACCOUNT_MAX: usize = 100_000;

/// Progress of one sequence, told to whoever answers its client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    /// Tokens produced so far.
    pub(crate) produced: u32,
    /// Whether that is all of them.
    pub(crate) done: bool,
}

#[derive(Debug)]
struct State {
    engine: Engine,
    readers: HashMap<u64, mpsc::UnboundedSender<Piece>>,
    next_id: u64,
    stats: HostStats,
    account: Vec<Served>,
}

/// One host.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) address: SocketAddr,
    token_batch: u32,
    clock: Clock,
    /// Whether requests wait before the engine.
    held: watch::Receiver<bool>,
    state: Mutex<State>,
    wake: Notify,
}

impl Host {
    pub(crate) fn new(
        address: SocketAddr,
        params: EngineParams,
        clock: Clock,
        token_batch: u32,
        held: watch::Receiver<bool>,
    ) -> Self {
        let state = State {
            engine: Engine::new(params),
            readers: HashMap::new(),
            next_id: 0,
            stats: HostStats::default(),
            account: Vec::new(),
        };
        Self {
            address,
            token_batch: token_batch.max(1),
            clock,
            held,
            state: Mutex::new(state),
            wake: Notify::new(),
        }
    }

    pub(crate) fn stats(&self) -> HostStats {
        let state = self.state.lock();
        HostStats {
            running: state.engine.running() as u64,
            waiting: state.engine.waiting() as u64,
            ..state.stats
        }
    }

    pub(crate) fn totals(&self) -> EngineTotals {
        self.state.lock().engine.totals()
    }

    pub(crate) fn kv_usage(&self) -> f64 {
        self.state.lock().engine.kv_usage()
    }

    /// What requests that named their consumer were served.
    pub(crate) fn served(&self) -> Vec<Served> {
        self.state.lock().account.clone()
    }

    /// Counts a request as in flight. It reaches the engine with [`Self::start`].
    pub(crate) fn accept(self: &Arc<Self>, served: Served) -> Ticket {
        let (sender, pieces) = mpsc::unbounded_channel();
        let mut state = self.state.lock();
        state.next_id += 1;
        state.stats.started += 1;
        state.stats.in_flight += 1;
        let id = state.next_id;
        state.readers.insert(id, sender);
        let is_noted = !served.consumer.is_empty() && state.account.len() < ACCOUNT_MAX;
        let account = is_noted.then_some(state.account.len());
        let (prompt, output) = (served.prompt, served.output);
        state.account.extend(is_noted.then_some(served));
        Ticket { host: Arc::clone(self), id, prompt, output, account, pieces }
    }

    /// Puts a sequence into the engine, once the hosts are not held.
    pub(crate) async fn start(&self, ticket: &Ticket) {
        // An error is a fleet that is being closed.
        let _ = self.held.clone().wait_for(|held| !held).await;
        let mut state = self.state.lock();
        let now = self.clock.now();
        self.advance(&mut state, now);
        let was_idle = state.engine.next_event().is_none();
        state.engine.submit(now, ticket.id, ticket.prompt, ticket.output);
        drop(state);
        if was_idle {
            self.wake.notify_one();
        }
    }

    fn advance(&self, state: &mut State, now: Duration) {
        let State { engine, readers, stats, .. } = state;
        engine.advance(now, |e| {
            if !(e.done || (e.produced - 1).is_multiple_of(self.token_batch)) {
                return;
            }
            if let Some(reader) = readers.get(&e.id) {
                let _ = reader.send(Piece { produced: e.produced, done: e.done });
            }
            if e.done && readers.remove(&e.id).is_some() {
                stats.in_flight -= 1;
                stats.finished += 1;
            }
        });
    }
}

/// A sequence someone waits for. Dropping it takes the sequence out of the engine.
#[derive(Debug)]
pub(crate) struct Ticket {
    host: Arc<Host>,
    pub(crate) id: u64,
    pub(crate) prompt: u32,
    pub(crate) output: u32,
    /// Its place in the account.
    account: Option<usize>,
    pub(crate) pieces: mpsc::UnboundedReceiver<Piece>,
}

impl Ticket {
    /// So many of its tokens have gone into the response.
    pub(crate) fn tell(&self, streamed: u32, end: Option<ServedEnd>) {
        let Some(at) = self.account else { return };
        let mut state = self.host.state.lock();
        let served = &mut state.account[at];
        served.streamed = served.streamed.max(streamed);
        served.end = served.end.or(end);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.tell(0, Some(ServedEnd::Aborted));
        let mut state = self.host.state.lock();
        if state.readers.remove(&self.id).is_some() {
            state.engine.abort(self.id);
            state.stats.in_flight -= 1;
            state.stats.aborted += 1;
        }
    }
}

/// Runs the engine: wakes at the end of each step. A late wake-up does several steps at once, each at its exact time.
pub(crate) async fn drive(host: Arc<Host>) {
    loop {
        let next = {
            let mut state = host.state.lock();
            host.advance(&mut state, host.clock.now());
            state.engine.next_event()
        };
        match next {
            Some(at) => tokio::time::sleep_until(host.clock.wall(at).into()).await,
            None => host.wake.notified().await,
        }
    }
}
