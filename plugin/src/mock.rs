//! A mock gateway for tests. It records what the plugin does, and returns the values that the test sets.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap, HashSet},
};

use evenkeel_proto::v1::{AdmitRequest, KeepAliveRequest, SettleRequest};
use prost::Message;

use crate::{
    host::{Host, Level, Method},
    metrics::Counter,
};

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

/// A call to the sidecar.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) token: u32,
    pub(crate) context: u32,
    pub(crate) cluster: String,
    pub(crate) method: Method,
    pub(crate) message: Vec<u8>,
    pub(crate) timeout_ms: u64,
}

impl Call {
    pub(crate) fn admit(&self) -> AdmitRequest {
        assert_eq!(self.method, Method::Admit);
        AdmitRequest::decode(&*self.message).unwrap()
    }

    pub(crate) fn settle(&self) -> SettleRequest {
        assert_eq!(self.method, Method::Settle);
        SettleRequest::decode(&*self.message).unwrap()
    }

    pub(crate) fn keep_alive(&self) -> KeepAliveRequest {
        assert_eq!(self.method, Method::KeepAlive);
        KeepAliveRequest::decode(&*self.message).unwrap()
    }
}

/// Root context of the instance under test.
pub(crate) const ROOT: u32 = 1;

pub(crate) struct Mock {
    pub(crate) now_ms: Cell<u64>,
    pub(crate) effective: Cell<u32>,
    pub(crate) streams: RefCell<HashMap<u32, MockStream>>,
    pub(crate) gone: RefCell<HashSet<u32>>,
    pub(crate) calls: RefCell<Vec<Call>>,
    pub(crate) refuse_calls: Cell<bool>,
    pub(crate) tick_ms: Cell<u64>,
    pub(crate) logs: RefCell<Vec<(Level, String)>>,
    pub(crate) counts: RefCell<HashMap<Counter, u64>>,
    pub(crate) hosts: RefCell<Vec<(String, String)>>,
    pub(crate) overridden: RefCell<Vec<(u32, String)>>,
    next_token: Cell<u32>,
}

impl Mock {
    pub(crate) fn new() -> Mock {
        Mock {
            now_ms: Cell::new(10_000),
            effective: Cell::new(ROOT),
            streams: RefCell::default(),
            gone: RefCell::default(),
            calls: RefCell::default(),
            refuse_calls: Cell::new(false),
            tick_ms: Cell::new(0),
            logs: RefCell::default(),
            counts: RefCell::default(),
            hosts: RefCell::default(),
            overridden: RefCell::default(),
            next_token: Cell::new(1),
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
        self.effective.set(context);
    }

    pub(crate) fn with_stream<T>(&self, context: u32, change: impl FnOnce(&mut MockStream) -> T) -> T {
        change(self.streams.borrow_mut().get_mut(&context).unwrap())
    }

    pub(crate) fn set_property(&self, context: u32, property: &str, value: &[u8]) {
        self.with_stream(context, |s| s.properties.insert(property.into(), value.to_vec()));
    }

    pub(crate) fn calls_of(&self, method: Method) -> Vec<Call> {
        self.calls.borrow().iter().filter(|call| call.method == method).cloned().collect()
    }

    pub(crate) fn last_call(&self, method: Method) -> Call {
        self.calls_of(method).pop().unwrap()
    }

    pub(crate) fn count_of(&self, counter: Counter) -> u64 {
        self.counts.borrow().get(&counter).copied().unwrap_or(0)
    }

    pub(crate) fn advance(&self, ms: u64) {
        self.now_ms.set(self.now_ms.get() + ms);
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

    fn request_body(&self, bytes_max: usize) -> Vec<u8> {
        self.in_stream(|s| s.body.iter().copied().take(bytes_max).collect()).unwrap_or_default()
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

    fn call(&self, cluster: &str, method: Method, message: &[u8], timeout_ms: u64) -> Option<u32> {
        if self.refuse_calls.get() {
            return None;
        }
        let token = self.next_token.replace(self.next_token.get() + 2);
        self.calls.borrow_mut().push(Call {
            token,
            context: self.effective.get(),
            cluster: cluster.to_owned(),
            method,
            message: message.to_vec(),
            timeout_ms,
        });
        Some(token)
    }

    fn resume_request(&self) {
        self.in_stream(|s| s.resumed += 1).unwrap();
    }

    fn respond(&self, status: u32, headers: &[(String, String)], body: &[u8]) {
        let response = Response { status, headers: headers.to_vec(), body: body.to_vec() };
        self.in_stream(|s| assert!(s.response.replace(response).is_none(), "answered twice")).unwrap();
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
}
