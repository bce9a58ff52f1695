//! One host: an engine on the wall clock, and who waits for which sequence.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use super::{Clock, HostStats};
use crate::engine::{Engine, EngineParams, EngineTotals};

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
}

/// One host.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) address: SocketAddr,
    token_batch: u32,
    clock: Clock,
    state: Mutex<State>,
    wake: Notify,
}

impl Host {
    pub(crate) fn new(address: SocketAddr, params: EngineParams, clock: Clock, token_batch: u32) -> Self {
        let state = State {
            engine: Engine::new(params),
            readers: HashMap::new(),
            next_id: 0,
            stats: HostStats::default(),
        };
        Self {
            address,
            token_batch: token_batch.max(1),
            clock,
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

    /// Puts a sequence into the engine.
    pub(crate) fn submit(self: &Arc<Self>, prompt: u32, output: u32) -> Ticket {
        let (sender, pieces) = mpsc::unbounded_channel();
        let mut state = self.state.lock();
        let now = self.clock.now();
        self.advance(&mut state, now);
        let was_idle = state.engine.next_event().is_none();
        let id = state.accept();
        state.readers.insert(id, sender);
        state.engine.submit(now, id, prompt, output);
        drop(state);
        if was_idle {
            self.wake.notify_one();
        }
        Ticket { host: Arc::clone(self), id, pieces }
    }

    /// Counts a request that never reaches the engine.
    pub(crate) fn submit_hanging(self: &Arc<Self>) -> Ticket {
        let (sender, pieces) = mpsc::unbounded_channel();
        let mut state = self.state.lock();
        let id = state.accept();
        state.readers.insert(id, sender);
        Ticket { host: Arc::clone(self), id, pieces }
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

impl State {
    fn accept(&mut self) -> u64 {
        self.next_id += 1;
        self.stats.started += 1;
        self.stats.in_flight += 1;
        self.next_id
    }
}

/// A sequence someone waits for. Dropping it takes the sequence out of the engine.
#[derive(Debug)]
pub(crate) struct Ticket {
    host: Arc<Host>,
    pub(crate) id: u64,
    pub(crate) pieces: mpsc::UnboundedReceiver<Piece>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
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
