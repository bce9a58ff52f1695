//! One mock host: an engine driven by the wall clock, and the clients that wait for its sequences.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};

use super::{HostStats, Served, ServedEnd, clock::Clock};
use crate::engine::{Engine, EngineParams, EngineTotals};

/// Maximum number of requests that one host records. The host serves further requests without recording them.
const SERVED_MAX: usize = 100_000;
/// Maximum number of delays that one host records. A long-running host, whose delays nobody reads, stops there.
const LATE_MAX: usize = 100_000;

/// Progress of one sequence, sent to the task that responds to its client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    /// Tokens produced so far.
    pub(crate) produced: u32,
    pub(crate) done: bool,
    /// Virtual time at the end of the step that produced the last token.
    pub(crate) at: Duration,
    /// Tokens of the prompt that the prefix cache had; `None` if the host has no prefix cache.
    pub(crate) cached: Option<u32>,
}

#[derive(Debug)]
struct State {
    engine: Engine,
    readers: HashMap<u64, mpsc::UnboundedSender<Progress>>,
    next_id: u64,
    stats: HostStats,
    served: Vec<Served>,
    /// Delays of first tokens in wall milliseconds.
    late_wall_ms: Vec<f64>,
}

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) address: SocketAddr,
    token_batch: u32,
    has_cache: bool,
    clock: Clock,
    /// Whether requests wait before they reach the engine.
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
        let has_cache = params.cache_tokens > 0;
        let state = State {
            engine: Engine::new(params),
            readers: HashMap::new(),
            next_id: 0,
            stats: HostStats::default(),
            served: Vec::new(),
            late_wall_ms: Vec::new(),
        };
        Self {
            address,
            token_batch: token_batch.max(1),
            has_cache,
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

    pub(crate) fn has_cache(&self) -> bool {
        self.has_cache
    }

    /// Empties the prefix cache.
    pub(crate) fn clear_cache(&self) {
        self.state.lock().engine.clear_cache();
    }

    /// Returns how many tokens of a prompt with these blocks the prefix cache will have once the host has read the
    /// prompts that it has.
    pub(crate) fn expected_cached(&self, blocks: &[u64]) -> u64 {
        self.state.lock().engine.expected_cached(blocks)
    }

    /// Returns the prompt tokens that the host has not read yet.
    pub(crate) fn unread(&self) -> u64 {
        self.state.lock().engine.unread()
    }

    pub(crate) fn params(&self) -> EngineParams {
        self.state.lock().engine.params().clone()
    }

    pub(crate) fn kv_usage(&self) -> f64 {
        self.state.lock().engine.kv_usage()
    }

    /// Returns a record of every request that named its consumer.
    pub(crate) fn served(&self) -> Vec<Served> {
        self.state.lock().served.clone()
    }

    pub(crate) fn take_late_wall_ms(&self) -> Vec<f64> {
        std::mem::take(&mut self.state.lock().late_wall_ms)
    }

    /// Counts a request as in flight. [`Self::start`] submits it to the engine.
    pub(crate) fn accept(self: &Arc<Self>, served: Served) -> Sequence {
        let (sender, progress) = mpsc::unbounded_channel();
        let mut state = self.state.lock();
        state.next_id += 1;
        state.stats.started += 1;
        state.stats.in_flight += 1;
        let id = state.next_id;
        state.readers.insert(id, sender);
        let is_recorded = !served.consumer.is_empty() && state.served.len() < SERVED_MAX;
        let record = is_recorded.then_some(state.served.len());
        let (prompt, output) = (served.prompt, served.output);
        state.served.extend(is_recorded.then_some(served));
        Sequence { host: Arc::clone(self), id, prompt, output, record, progress }
    }

    /// Submits a sequence to the engine when the fleet no longer holds requests back. `blocks` are the hashes of its
    /// prompt's complete blocks.
    pub(crate) async fn start(&self, sequence: &Sequence, blocks: Vec<u64>) {
        // An error means that the fleet is shutting down.
        let _ = self.held.clone().wait_for(|held| !held).await;
        let mut state = self.state.lock();
        let now = self.clock.now();
        self.advance(&mut state, now);
        let was_idle = state.engine.next_event().is_none();
        state.engine.submit_blocks(now, sequence.id, (sequence.prompt, sequence.output), blocks.into());
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
                let cached = self.has_cache.then_some(e.cached);
                let _ = reader.send(Progress { produced: e.produced, done: e.done, at: e.at, cached });
            }
            if e.done && readers.remove(&e.id).is_some() {
                stats.in_flight -= 1;
                stats.finished += 1;
            }
        });
    }
}

/// A sequence whose client waits for it. Dropping this value aborts the sequence.
#[derive(Debug)]
pub(crate) struct Sequence {
    host: Arc<Host>,
    pub(crate) id: u64,
    pub(crate) prompt: u32,
    pub(crate) output: u32,
    /// Index of the sequence's record in the host's list.
    record: Option<usize>,
    pub(crate) progress: mpsc::UnboundedReceiver<Progress>,
}

impl Sequence {
    /// Records how late the response sends the first token, which the engine produced at the virtual time `at`.
    pub(crate) fn record_first_token(&self, at: Duration) {
        let late = Instant::now().saturating_duration_since(self.host.clock.wall(at));
        let mut state = self.host.state.lock();
        if state.late_wall_ms.len() < LATE_MAX {
            state.late_wall_ms.push(late.as_secs_f64() * 1e3);
        }
    }

    /// Records the number of tokens that the response has delivered, and how it ended.
    pub(crate) fn record(&self, streamed: u32, end: Option<ServedEnd>) {
        let Some(index) = self.record else { return };
        let mut state = self.host.state.lock();
        let served = &mut state.served[index];
        served.streamed = served.streamed.max(streamed);
        served.end = served.end.or(end);
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        self.record(0, Some(ServedEnd::Aborted));
        let mut state = self.host.state.lock();
        if state.readers.remove(&self.id).is_some() {
            state.engine.abort(self.id);
            state.stats.in_flight -= 1;
            state.stats.aborted += 1;
        }
    }
}

/// Runs the engine. Wakes up at the end of each step; a late wake-up finishes several steps, each at its exact time.
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
