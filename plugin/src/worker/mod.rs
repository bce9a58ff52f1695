//! One plugin instance in one worker of the gateway: its streams, its stream to the sidecar, and its tick.
//!
//! Each instance is a separate holder of leases, with its own lease numbers, its own stream to the sidecar and its own
//! lists. Plugin configurations that share a Wasm VM therefore cannot drop each other's leases.
//!
//! A request's *stream* is the gateway's HTTP stream; [`stream`] is the one to the sidecar.

mod admissions;
mod body_buffer;
mod connection;
mod connectivity;
mod direct_response;
mod headers;
mod list;
mod message;
mod open_rate;
mod outbox;
mod passed;
mod refusals;
mod refuse;
mod request;
mod request_body;
mod response;
mod settle;
mod stream;
#[cfg(test)]
mod tests;
mod tick;
mod unanswered;

use std::{collections::HashMap, rc::Rc};

use admissions::Admissions;
use connection::Connection;
use connectivity::Connectivity;
use evenkeel_proto::v1::Header;
use list::ListSchedule;
use open_rate::OpenRate;
use outbox::Outbox;
use passed::Passed;
use refusals::Refusals;
use request_body::{RequestReader, RequestTarget};
use response::ResponseBody;

use crate::{
    attributes::Wanted,
    config::Config,
    host::{Host, Level},
    lease_table::{LeaseTable, PoolKey},
};

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
        lease: u64,
    },
    /// The request proceeded, or the client received a local response.
    Decided,
}

/// Result of one step of request handling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// The request waits for the sidecar's answer.
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
    /// Whether the response came from upstream rather than from the gateway itself, whose body contains no tokens.
    /// `None` if that is unknown.
    is_via_upstream: Option<bool>,
    /// True if the path is one of `admin_paths`.
    is_admin_call: bool,
    /// Status of the response; `None` before the response has started.
    status: Option<u32>,
    /// True once the whole response has passed.
    complete: bool,
    /// True if the plugin refused the request, which must then not reach the upstream.
    refused: bool,
    /// What the request asks for.
    target: RequestTarget,
    /// The reader of the request's body, while it is not read to its end.
    request_reader: Option<Box<RequestReader>>,
    /// Size of the body of an admin call, as far as it has arrived.
    admin_body_bytes: usize,
    ticket: Rc<[u8]>,
    /// The keys under which a refusal of this request stands.
    refusal_keys: Vec<u64>,
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
    connection: Connection,
    admissions: Admissions,
    outbox: Outbox,
    list: ListSchedule,
    connectivity: Connectivity,
    refusals: Refusals,
    open_rate: OpenRate,
    passed: Passed,
    wanted: Wanted,
    /// Lease number up to which upstream addresses were looked up before the last list.
    located_through: u64,
    tick_ms: u64,
    next_tick_ms: u64,
    /// When the next tick looks at the bodies that are being buffered.
    slow_due_ms: u64,
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
            list: ListSchedule::new(config.keep_alive_ms),
            config,
            lease_table: LeaseTable::default(),
            streams: HashMap::new(),
            connection: Connection::new(),
            admissions: Admissions::default(),
            outbox: Outbox::default(),
            connectivity: Connectivity::default(),
            refusals: Refusals::default(),
            open_rate: OpenRate::default(),
            passed: Passed::default(),
            wanted: Wanted::default(),
            located_through: 0,
            tick_ms: 0,
            next_tick_ms: u64::MAX,
            slow_due_ms: 0,
            warned: 0,
        }
    }

    /// Applies a configuration. If it is invalid, logs every error and returns false.
    pub fn configure(&mut self, host: &dyn Host, text: &[u8]) -> bool {
        match Config::parse(text) {
            Ok(config) => {
                if config.sidecar_clusters != self.config.sidecar_clusters {
                    self.reconnect(host);
                }
                if config.keep_alive_ms != self.config.keep_alive_ms {
                    self.list = ListSchedule::new(config.keep_alive_ms);
                }
                self.config = config;
                self.refusals.seed(host.random());
                self.next_tick_ms = u64::MAX;
                self.hurry(host, host.now_ms());
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
}

/// Returns a random id of a holder: 132 bits in 22 characters.
pub fn random_id(host: &dyn Host) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut word = 0;
    (0..22_u32)
        .map(|i| {
            if i % 10 == 0 {
                word = host.random();
            }
            let index = (word >> (6 * (i % 10))) & 63;
            char::from(ALPHABET[index as usize])
        })
        .collect()
}
