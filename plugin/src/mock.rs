//! A mock gateway for tests, with the sidecar at the other end of its streams. It records what the plugin does, and
//! returns the values that the test sets. The tests play the sidecar: they read what it received, and let it answer.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap, HashSet},
};

use evenkeel_proto::v1::{AdmitRequest, FirstToken, FromWorker, KeepAliveRequest, SettleRequest};
use prost::Message;

use crate::{
    host::{Host, Level},
    metrics::Counter,
};

/// A gateway's Wasm VM traps if one call into it resumes some hundreds of requests.
pub(crate) const RESUMED_IN_CALL_MAX: u32 = 32;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Response {
    pub(crate) status: u32,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// State of one stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct MockStream {
    pub(crate) request_headers: BTreeMap<String, String>,
    /// Further values of repeated headers.
    pub(crate) repeated_headers: Vec<(String, String)>,
    pub(crate) response_headers: BTreeMap<String, String>,
    pub(crate) properties: HashMap<String, Vec<u8>>,
    pub(crate) body: Vec<u8>,
    /// The current chunk of the response body.
    pub(crate) response_chunk: Vec<u8>,
    pub(crate) resumed: u32,
    pub(crate) response: Option<Response>,
}

/// A message that the sidecar received.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) token: u32,
    pub(crate) message: FromWorker,
}

/// Root context of the instance under test.
pub(crate) const ROOT: u32 = 1;

pub(crate) struct Mock {
    pub(crate) now_ms: Cell<u64>,
    pub(crate) effective: Cell<u32>,
    pub(crate) streams: RefCell<HashMap<u32, MockStream>>,
    pub(crate) gone: RefCell<HashSet<u32>>,
    /// Clusters of the streams to the sidecar that the plugin has opened, by token.
    pub(crate) opened: RefCell<BTreeMap<u32, String>>,
    /// Tokens of the streams that are open.
    pub(crate) open: RefCell<HashSet<u32>>,
    /// Tokens that the gateway has not released.
    pub(crate) tokens: RefCell<HashSet<u32>>,
    /// What the sidecar received, over all streams.
    pub(crate) sent: RefCell<Vec<Sent>>,
    /// Number of messages that the gateway accepted after the stream had ended.
    pub(crate) lost: Cell<usize>,
    pub(crate) refuse_open: Cell<bool>,
    pub(crate) done: Cell<u32>,
    pub(crate) resumed_in_call: Cell<u32>,
    pub(crate) tick_ms: Cell<u64>,
    pub(crate) logs: RefCell<Vec<(Level, String)>>,
    pub(crate) counts: RefCell<HashMap<Counter, u64>>,
    pub(crate) hosts: RefCell<Vec<(String, String)>>,
    pub(crate) overridden: RefCell<Vec<(u32, String)>>,
    /// Streams whose bodies the gateway buffers beyond its own limit.
    pub(crate) raised: RefCell<Vec<u32>>,
    next_token: Cell<u32>,
    drawn: Cell<u64>,
}

impl Mock {
    pub(crate) fn new() -> Mock {
        Mock {
            now_ms: Cell::new(10_000),
            effective: Cell::new(ROOT),
            streams: RefCell::default(),
            gone: RefCell::default(),
            opened: RefCell::default(),
            open: RefCell::default(),
            tokens: RefCell::default(),
            sent: RefCell::default(),
            lost: Cell::new(0),
            refuse_open: Cell::new(false),
            done: Cell::new(0),
            resumed_in_call: Cell::new(0),
            tick_ms: Cell::new(0),
            logs: RefCell::default(),
            counts: RefCell::default(),
            hosts: RefCell::default(),
            overridden: RefCell::default(),
            raised: RefCell::default(),
            next_token: Cell::new(2),
            drawn: Cell::new(0),
        }
    }

    /// Opens a stream for a request with a route and a cluster.
    pub(crate) fn open(&self, context: u32) {
        let mut stream = MockStream::default();
        stream.request_headers.insert(":method".into(), "POST".into());
        stream.request_headers.insert(":path".into(), "/v1/chat/completions?a=b".into());
        stream.properties.insert("xds.route_name".into(), b"chat".to_vec());
        stream.properties.insert("xds.cluster_name".into(), b"llm".to_vec());
        stream.properties.insert("source.address".into(), b"192.0.2.7:4711".to_vec());
        self.streams.borrow_mut().insert(context, stream);
        self.call(context);
    }

    pub(crate) fn with_stream<T>(&self, context: u32, change: impl FnOnce(&mut MockStream) -> T) -> T {
        change(self.streams.borrow_mut().get_mut(&context).unwrap())
    }

    pub(crate) fn set_property(&self, context: u32, property: &str, value: &[u8]) {
        self.with_stream(context, |s| s.properties.insert(property.into(), value.to_vec()));
    }

    /// Begins a call into the plugin, with this effective context.
    pub(crate) fn call(&self, context: u32) {
        self.effective.set(context);
        self.resumed_in_call.set(0);
    }

    /// Returns the token of the newest open stream to the sidecar.
    pub(crate) fn token(&self) -> Option<u32> {
        let open = self.open.borrow();
        assert!(open.len() <= 2, "one stream for each worker, and its successor");
        open.iter().copied().max()
    }

    /// Ends a stream to the sidecar, as the sidecar or the connection does.
    pub(crate) fn end_stream(&self, token: u32) {
        assert!(self.open.borrow_mut().remove(&token));
    }

    /// Returns the messages that the sidecar received.
    pub(crate) fn messages(&self) -> Vec<FromWorker> {
        self.sent.borrow().iter().map(|sent| sent.message.clone()).collect()
    }

    pub(crate) fn admits(&self) -> Vec<AdmitRequest> {
        self.messages().into_iter().filter_map(|message| message.admit).collect()
    }

    pub(crate) fn settlements(&self) -> Vec<SettleRequest> {
        self.messages().into_iter().flat_map(|message| message.settlements).collect()
    }

    pub(crate) fn first_tokens(&self) -> Vec<FirstToken> {
        self.messages().into_iter().flat_map(|message| message.first_tokens).collect()
    }

    pub(crate) fn cancelled(&self) -> Vec<u64> {
        self.messages().into_iter().flat_map(|message| message.cancelled).collect()
    }

    pub(crate) fn lists(&self) -> Vec<KeepAliveRequest> {
        self.messages().into_iter().filter_map(|message| message.leases).collect()
    }

    pub(crate) fn count_of(&self, counter: Counter) -> u64 {
        self.counts.borrow().get(&counter).copied().unwrap_or(0)
    }

    pub(crate) fn advance(&self, ms: u64) {
        self.now_ms.set(self.now_ms.get() + ms);
    }

    fn count_resumed(&self) {
        self.resumed_in_call.set(self.resumed_in_call.get() + 1);
        assert!(self.resumed_in_call.get() <= RESUMED_IN_CALL_MAX, "the VM traps");
    }

    fn in_stream<T>(&self, read: impl FnOnce(&mut MockStream) -> T) -> Option<T> {
        self.streams.borrow_mut().get_mut(&self.effective.get()).map(read)
    }
}

impl Host for Mock {
    fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }

    fn log(&self, level: Level, message: &str) {
        self.logs.borrow_mut().push((level, message.to_owned()));
    }

    fn enter(&self, context: u32) -> bool {
        let there = !self.gone.borrow().contains(&context);
        if there {
            self.effective.set(context);
        }
        there
    }

    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        self.in_stream(|s| s.properties.get(&path.join(".")).cloned()).flatten()
    }

    fn request_header(&self, name: &str) -> Option<String> {
        self.in_stream(|s| s.request_headers.get(name).cloned()).flatten()
    }

    fn request_header_values(&self, name: &str) -> Vec<String> {
        let read = |s: &mut MockStream| {
            let repeated = s.repeated_headers.iter().filter(|(n, _)| n == name).map(|(_, value)| value);
            s.request_headers.get(name).into_iter().chain(repeated).cloned().collect()
        };
        self.in_stream(read).unwrap_or_default()
    }

    fn set_request_header(&self, name: &str, value: &str) {
        self.in_stream(|s| s.request_headers.insert(name.to_owned(), value.to_owned()));
    }

    fn remove_request_header(&self, name: &str) {
        self.in_stream(|s| s.request_headers.remove(name));
    }

    fn set_response_header(&self, name: &str, value: &str) {
        self.in_stream(|s| s.response_headers.insert(name.to_owned(), value.to_owned()));
    }

    fn response_header(&self, name: &str) -> Option<String> {
        self.in_stream(|s| s.response_headers.get(name).cloned()).flatten()
    }

    fn remove_response_header(&self, name: &str) {
        self.in_stream(|s| s.response_headers.remove(name));
    }

    fn request_body(&self, at: usize, bytes_max: usize) -> Vec<u8> {
        let read = |s: &mut MockStream| {
            assert!(at <= s.body.len(), "gateways do not check the offset");
            s.body.iter().skip(at).take(bytes_max).copied().collect()
        };
        self.in_stream(read).unwrap_or_default()
    }

    fn set_request_body(&self, replaced: usize, body: &[u8]) {
        self.in_stream(|s| drop(s.body.splice(..replaced, body.iter().copied())));
    }

    fn response_body(&self, at: usize, bytes_max: usize) -> Vec<u8> {
        self.in_stream(|s| s.response_chunk.iter().skip(at).take(bytes_max).copied().collect())
            .unwrap_or_default()
    }

    fn set_response_body(&self, replaced: usize, body: &[u8]) {
        self.in_stream(|s| drop(s.response_chunk.splice(..replaced, body.iter().copied())));
    }

    fn open_stream(&self, cluster: &str) -> Option<u32> {
        assert_eq!(
            self.effective.get(),
            ROOT,
            "the gateway delivers messages to the context that opened the stream"
        );
        if self.refuse_open.get() {
            return None;
        }
        let token = self.next_token.replace(self.next_token.get() + 2);
        self.opened.borrow_mut().insert(token, cluster.to_owned());
        self.open.borrow_mut().insert(token);
        self.tokens.borrow_mut().insert(token);
        Some(token)
    }

    fn send(&self, token: u32, message: &[u8]) {
        if !self.open.borrow().contains(&token) {
            self.lost.set(self.lost.get() + 1);
            return;
        }
        let message = FromWorker::decode(message).unwrap();
        assert!(message.settlements.len() <= 256 && message.cancelled.len() <= 256);
        self.sent.borrow_mut().push(Sent { token, message });
    }

    fn cancel_stream(&self, token: u32) {
        self.open.borrow_mut().remove(&token);
        self.tokens.borrow_mut().remove(&token);
    }

    fn close_stream(&self, token: u32) {
        assert!(!self.open.borrow().contains(&token), "closed before its end");
        self.tokens.borrow_mut().remove(&token);
    }

    fn done(&self) {
        self.done.set(self.done.get() + 1);
    }

    fn random(&self) -> u64 {
        self.drawn.set(self.drawn.get() + 1);
        self.drawn.get().wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn resume_request(&self) {
        self.in_stream(|s| s.resumed += 1).unwrap();
        self.count_resumed();
    }

    fn respond(&self, status: u32, headers: &[(String, String)], body: &[u8]) {
        let response = Response { status, headers: headers.to_vec(), body: body.to_vec() };
        self.in_stream(|s| assert!(s.response.replace(response).is_none(), "answered twice")).unwrap();
        self.count_resumed();
    }

    fn set_tick_ms(&self, period_ms: u64) {
        self.tick_ms.set(period_ms);
    }

    fn count(&self, counter: Counter, by: u64) {
        *self.counts.borrow_mut().entry(counter).or_default() += by;
    }

    fn upstream_hosts(&self) -> Vec<(String, String)> {
        self.hosts.borrow().clone()
    }

    fn override_host(&self, address: &str) -> bool {
        self.overridden.borrow_mut().push((self.effective.get(), address.to_owned()));
        true
    }

    fn raise_body_limit(&self) {
        self.raised.borrow_mut().push(self.effective.get());
    }
}
