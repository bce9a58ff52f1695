//! One plugin instance in one worker of the gateway: its streams, its calls to the sidecar, its tick.
//!
//! Each instance is a holder of its own, with its own lease numbers and its own KeepAlive. So several plugin
//! configurations that share a Wasm VM cannot disturb each other: no list speaks for another's leases.

mod gather;
mod keep_alive;
mod own;
mod reach;
mod refuse;
mod request;
mod response;
mod settle;
#[cfg(test)]
mod tests;

use crate::{
    book::{Book, Place, PoolKey},
    config::Config,
    facts,
    host::{Host, Level},
    metrics::Counter,
};
use evenkeel_proto::v1::Header;
use keep_alive::KeepAlive;
use reach::Reach;
use response::Reading;
use std::{collections::HashMap, rc::Rc};

/// Period of the first tick, so that the sidecar hears of a new holder at once.
const FIRST_TICK_MS: u64 = 20;

/// Most streams whose upstream address one tick looks up; the next tick goes on from there.
const LOOKS_MAX: usize = 4096;

/// What the gateway is to do with a request after a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Let it go on.
    Continue,
    /// Hold it.
    Pause,
}

/// How far a request is.
#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// Its body is being gathered.
    Gathering { since_ms: u64 },
    /// Admit was asked.
    Asking { token: u32 },
    /// It was let go on, or answered locally.
    Decided,
}

/// One request.
#[derive(Debug)]
struct Stream {
    phase: Phase,
    pool: Option<PoolKey>,
    lease: Option<u64>,
    /// Endpoint the sidecar chose.
    chosen: Option<Rc<str>>,
    /// It was found on another endpoint than chosen.
    strayed: bool,
    asked_ms: u64,
    first_token_ms: Option<u64>,
    /// Its response has begun: the upstream address is final.
    responding: bool,
    /// The response is the gateway's own: its body is no token.
    by_gateway: bool,
    /// The sidecar answers it itself.
    own: bool,
    /// It was answered locally, and must not reach the upstream.
    refused: bool,
    /// What the sidecar wants to see again in the Settle.
    ticket: Rc<[u8]>,
    /// The trace it belongs to, as Admit told it.
    traceparent: String,
    /// Headers to add to its response.
    response_headers: Vec<Header>,
    reading: Reading,
}

/// One plugin instance in one worker. Every method that takes a `context` is called with that stream as the
/// effective context, and leaves it so.
pub struct Worker {
    root: u32,
    holder: String,
    config: Config,
    book: Book,
    streams: HashMap<u32, Stream>,
    /// Streams by the token of their Admit.
    asked: HashMap<u32, u32>,
    keep_alive: KeepAlive,
    reach: Reach,
    /// Headers the sidecar wants to see, beside those configured; in lower case.
    wanted_headers: Vec<String>,
    /// Lease number up to which the last tick looked.
    looked_through: u64,
    /// Warnings said once in the life of a worker, as bits.
    said: u8,
}

impl Worker {
    /// An instance for a root context, with the id of its holder.
    pub fn new(root: u32, holder: String) -> Worker {
        // Never refused: it is all defaults.
        let config = Config::parse(b"").unwrap_or_else(|_| unreachable!());
        Worker {
            root,
            holder,
            keep_alive: KeepAlive::new(config.keep_alive_ms),
            config,
            book: Book::default(),
            streams: HashMap::new(),
            asked: HashMap::new(),
            reach: Reach::default(),
            wanted_headers: Vec::new(),
            looked_through: 0,
            said: 0,
        }
    }

    /// Takes a configuration. On a bad one every fault is logged, and it is false.
    pub fn configure(&mut self, host: &dyn Host, text: &[u8]) -> bool {
        match Config::parse(text) {
            Ok(config) => {
                self.keep_alive = KeepAlive::new(config.keep_alive_ms);
                self.config = config;
                host.set_tick_ms(FIRST_TICK_MS);
                host.log(Level::Info, &format!("evenkeel: holder {}, root {}", self.holder, self.root));
                true
            }
            Err(faults) => {
                for fault in &faults {
                    host.log(Level::Error, &format!("evenkeel: configuration refused: {fault}"));
                }
                false
            }
        }
    }

    /// Id of the holder.
    pub fn holder(&self) -> &str {
        &self.holder
    }

    /// The leases held.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// The tick. The root context is the effective one.
    pub fn on_tick(&mut self, host: &dyn Host) {
        let now_ms = host.now_ms();
        self.look(host);
        self.give_up_bodies(host, now_ms);
        host.enter(self.root);
        self.book.prune(now_ms);
        self.reach.tell(host, &self.config, now_ms);
        self.tick_keep_alive(host, now_ms);
    }

    /// An answer of the sidecar, under any context.
    pub fn on_answer(&mut self, host: &dyn Host, token: u32, status: u32, body: &[u8]) {
        if self.keep_alive.is(token) {
            self.on_kept_alive(host, status, body);
        } else if let Some(context) = self.asked.remove(&token)
            && host.enter(context)
        {
            self.on_admit_answer(host, context, status, body);
        }
    }

    /// Looks where the requests are that have no response yet, and those whose endpoint is not known.
    fn look(&mut self, host: &dyn Host) {
        if !self.config.apply.by_address() {
            return;
        }
        let leases = self.book.after(self.looked_through, LOOKS_MAX);
        self.looked_through = match leases.last() {
            Some((lease, _)) if leases.len() == LOOKS_MAX => *lease,
            _ => 0,
        };
        for (_, context) in leases {
            let due = self.streams.get(&context).is_some_and(|s| s.phase == Phase::Decided && !s.responding);
            if due && host.enter(context) {
                self.note_address(host, context);
            }
        }
    }

    /// Puts the lease of a stream where the stream really is.
    fn note_address(&mut self, host: &dyn Host, context: u32) {
        let Some(stream) = self.streams.get_mut(&context) else { return };
        let Some(lease) = stream.lease.filter(|_| self.config.apply.by_address()) else { return };
        let Some(actual) = facts::upstream_address(host) else { return };
        if self.book.get(lease).is_some_and(|held| matches!(&held.place, Place::On(e) if **e == *actual)) {
            return;
        }
        if stream.chosen.as_deref().is_some_and(|chosen| chosen != actual) && !stream.strayed {
            stream.strayed = true;
            host.count(Counter::EndpointMismatches, 1);
        }
        self.book.place(lease, Place::On(actual.into()));
    }
}
