//! One plugin instance in one worker of the gateway: its streams, its calls to the sidecar, and its tick.
//!
//! Each instance is a separate holder of leases, with its own lease numbers and its own KeepAlive. Plugin
//! configurations that share a Wasm VM therefore cannot drop each other's leases.

mod body_buffer;
mod connectivity;
mod direct_response;
mod headers;
mod keep_alive;
mod refuse;
mod request;
mod response;
mod settle;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, rc::Rc};

use connectivity::Connectivity;
use evenkeel_proto::v1::Header;
use keep_alive::KeepAlive;
use response::ResponseBody;

use crate::{
    attributes,
    config::Config,
    host::{Host, Level},
    lease_table::{LeaseTable, Location, PoolKey},
    metrics::Counter,
};

/// Delay of the first tick. It is short, so that the sidecar registers a new holder at once.
const FIRST_TICK_MS: u64 = 20;

/// Maximum number of streams whose upstream address one tick looks up; the next tick continues with the rest.
const LOCATED_PER_TICK_MAX: usize = 4096;

/// What the gateway does with a request after a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Continue,
    Pause,
}

/// Which step of request handling a stream has reached.
#[derive(Debug, PartialEq, Eq)]
enum Phase {
    BufferingBody {
        since_ms: u64,
    },
    AwaitingAdmit {
        token: u32,
    },
    /// The request proceeded, or the client received a local response.
    Decided,
}

/// Result of one step of request handling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// The plugin sent Admit and waits for the answer.
    Waiting,
    /// The request may proceed.
    Proceed,
    /// The client received a local response.
    Responded,
}

#[derive(Debug)]
struct Stream {
    phase: Phase,
    pool: Option<PoolKey>,
    lease: Option<u64>,
    /// The endpoint that the sidecar chose.
    chosen_endpoint: Option<Rc<str>>,
    /// True if the request went to another endpoint, and this mismatch has been counted.
    mismatch_counted: bool,
    admit_sent_ms: u64,
    first_token_ms: Option<u64>,
    /// True once the response has started: the upstream address is final from then on.
    response_started: bool,
    /// True if the gateway created the response itself. Its body then contains no tokens.
    local_reply: bool,
    /// True if the path is one of `admin_paths`.
    is_admin_call: bool,
    /// True if the plugin refused the request, which must then not reach the upstream.
    refused: bool,
    ticket: Rc<[u8]>,
    traceparent: String,
    /// Headers to add to the response.
    response_headers: Vec<Header>,
    response_body: ResponseBody,
}

/// One plugin instance. Every method with a `context` parameter expects that stream as the effective context, and
/// returns with the same effective context.
pub struct Worker {
    root: u32,
    holder: String,
    config: Config,
    lease_table: LeaseTable,
    streams: HashMap<u32, Stream>,
    /// Maps the token of a pending Admit to its stream.
    pending_admits: HashMap<u32, u32>,
    keep_alive: KeepAlive,
    connectivity: Connectivity,
    /// Names of the headers that the sidecar requested and the configuration does not list, in lower case.
    wanted_headers: Vec<String>,
    /// Lease number up to which the last tick looked up upstream addresses.
    located_through: u64,
    /// Warnings already logged, one bit for each.
    warned: u8,
}

impl Worker {
    /// Creates an instance for a root context.
    pub fn new(root: u32, holder: String) -> Worker {
        // The empty configuration is valid.
        let config = Config::parse(b"").unwrap_or_else(|_| unreachable!());
        Worker {
            root,
            holder,
            keep_alive: KeepAlive::new(config.keep_alive_ms),
            config,
            lease_table: LeaseTable::default(),
            streams: HashMap::new(),
            pending_admits: HashMap::new(),
            connectivity: Connectivity::default(),
            wanted_headers: Vec::new(),
            located_through: 0,
            warned: 0,
        }
    }

    /// Applies a configuration. If it is invalid, logs every error and returns false.
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
                    host.log(Level::Error, &format!("evenkeel: configuration rejected: {fault}"));
                }
                false
            }
        }
    }

    pub fn holder(&self) -> &str {
        &self.holder
    }

    pub fn lease_table(&self) -> &LeaseTable {
        &self.lease_table
    }

    /// Handles a tick. The root context must be the effective context.
    pub fn on_tick(&mut self, host: &dyn Host) {
        let now_ms = host.now_ms();
        self.locate_streams(host);
        self.time_out_bodies(host, now_ms);
        host.enter(self.root);
        self.lease_table.prune(now_ms);
        self.connectivity.log_change(host, &self.config, now_ms);
        self.send_keep_alive_if_due(host, now_ms);
    }

    /// Handles an answer from the sidecar. Any context may be the effective context.
    pub fn on_answer(&mut self, host: &dyn Host, token: u32, status: u32, body: &[u8]) {
        if self.keep_alive.is_pending(token) {
            self.on_keep_alive_answer(host, status, body);
        } else if let Some(context) = self.pending_admits.remove(&token)
            && host.enter(context)
        {
            self.on_admit_answer(host, context, status, body);
        }
    }

    /// Looks up the upstream addresses of requests that have no response yet.
    fn locate_streams(&mut self, host: &dyn Host) {
        if !self.config.apply.by_address() {
            return;
        }
        let leases = self.lease_table.leases_after(self.located_through, LOCATED_PER_TICK_MAX);
        self.located_through = match leases.last() {
            Some((lease, _)) if leases.len() == LOCATED_PER_TICK_MAX => *lease,
            _ => 0,
        };
        for (_, context) in leases {
            let is_due =
                self.streams.get(&context).is_some_and(|s| s.phase == Phase::Decided && !s.response_started);
            if is_due && host.enter(context) {
                self.update_location(host, context);
            }
        }
    }

    /// Sets the location of a stream's lease to the upstream address in use.
    fn update_location(&mut self, host: &dyn Host, context: u32) {
        let Some(stream) = self.streams.get_mut(&context) else { return };
        let Some(lease) = stream.lease.filter(|_| self.config.apply.by_address()) else { return };
        let Some(actual) = attributes::upstream_address(host) else { return };
        let lease_at = self.lease_table.get(lease).map(|held| &held.location);
        if matches!(lease_at, Some(Location::At(endpoint)) if **endpoint == *actual) {
            return;
        }
        if stream.chosen_endpoint.as_deref().is_some_and(|chosen| chosen != actual)
            && !stream.mismatch_counted
        {
            stream.mismatch_counted = true;
            host.count(Counter::EndpointMismatches, 1);
        }
        self.lease_table.set_location(lease, Location::At(actual.into()));
    }
}
