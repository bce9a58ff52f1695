//! Entry point of the Wasm module: passes proxy-wasm callbacks to the worker, and the worker's host calls to
//! proxy-wasm. It makes no decisions.
//!
//! A callback borrows the worker until the callback returns. No second callback runs meanwhile, because gateways defer
//! the effects of a host call (a resumed request, a local response, a call that fails at once) until the callback has
//! returned.

use std::{
    cell::{Cell, OnceCell, RefCell, RefMut},
    hash::{BuildHasher, RandomState},
    rc::Rc,
    time::{Duration, Instant},
};

use proxy_wasm::{
    hostcalls,
    traits::{Context, HttpContext, RootContext},
    types::{Action, BufferType, ContextType, LogLevel, MapType, MetricType},
};

use crate::{
    host::{Host, Level, METHOD, Pairs, SERVICE},
    metrics::Counter,
    worker::{Flow, Worker, random_id},
};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|id| Box::new(Root::new(id)));
}}

struct Gateway {
    started: Instant,
    /// What the current callback has read.
    read: RefCell<Read>,
    /// Metric ids in the order of [`Counter::ALL`].
    metrics: OnceCell<Vec<u32>>,
    /// Number of random numbers drawn.
    drawn: Cell<u64>,
}

/// Values that do not change while a callback runs. Reading a value from the gateway costs about a microsecond.
#[derive(Default)]
struct Read {
    now_ms: Option<u64>,
    /// Headers of the request that is the effective context.
    request_headers: Option<Pairs>,
}

struct Root {
    host: Rc<Gateway>,
    worker: Rc<RefCell<Worker>>,
}

/// An HTTP stream. The worker stores the stream's state.
struct Stream {
    context: u32,
    host: Rc<Gateway>,
    worker: Rc<RefCell<Worker>>,
}

impl Root {
    fn new(context: u32) -> Root {
        let host = Rc::new(Gateway {
            started: Instant::now(),
            read: RefCell::default(),
            metrics: OnceCell::new(),
            drawn: Cell::new(0),
        });
        let worker = Rc::new(RefCell::new(Worker::new(context, random_id(&*host))));
        Root { host, worker }
    }
}

impl Context for Root {
    fn on_grpc_stream_message(&mut self, token_id: u32, message_size: usize) {
        let message = grpc_message(message_size);
        self.host.begin(&self.worker).on_stream_message(&*self.host, token_id, &message);
    }

    fn on_grpc_stream_close(&mut self, token_id: u32, status_code: u32) {
        self.host.begin(&self.worker).on_stream_close(&*self.host, token_id, status_code);
    }

    fn on_done(&mut self) -> bool {
        self.host.begin(&self.worker).on_done(&*self.host)
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let text = self.get_plugin_configuration().unwrap_or_default();
        self.host.begin(&self.worker).configure(&*self.host, &text)
    }

    fn on_tick(&mut self) {
        self.host.begin(&self.worker).on_tick(&*self.host);
    }

    fn create_http_context(&self, context_id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream {
            context: context_id,
            host: Rc::clone(&self.host),
            worker: Rc::clone(&self.worker),
        }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _count: usize, end_of_stream: bool) -> Action {
        action(self.host.begin(&self.worker).on_request_headers(&*self.host, self.context, end_of_stream))
    }

    fn on_http_request_body(&mut self, bytes: usize, end_of_stream: bool) -> Action {
        action(self.host.begin(&self.worker).on_request_body(&*self.host, self.context, bytes, end_of_stream))
    }

    fn on_http_request_trailers(&mut self, _count: usize) -> Action {
        action(self.host.begin(&self.worker).on_request_trailers(&*self.host, self.context))
    }

    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        self.host.begin(&self.worker).on_response_headers(&*self.host, self.context);
        Action::Continue
    }

    fn on_http_response_body(&mut self, bytes: usize, end_of_stream: bool) -> Action {
        self.host.begin(&self.worker).on_response_body(&*self.host, self.context, bytes, end_of_stream);
        Action::Continue
    }

    fn on_http_response_trailers(&mut self, _count: usize) -> Action {
        self.host.begin(&self.worker).on_response_trailers(&*self.host, self.context);
        Action::Continue
    }

    fn on_log(&mut self) {
        self.host.begin(&self.worker).on_end(&*self.host, self.context);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Ends a stream that the gateway dropped without calling `on_log`. After `on_log`, this does nothing.
        if self.worker.try_borrow_mut().is_ok() {
            self.host.begin(&self.worker).on_end(&*self.host, self.context);
        }
    }
}

impl Gateway {
    /// Borrows the worker for a callback, which reads everything anew.
    fn begin<'w>(&self, worker: &'w RefCell<Worker>) -> RefMut<'w, Worker> {
        self.read.take();
        worker.borrow_mut()
    }

    /// Makes the next look at a request header read them all again.
    fn forget_request_headers(&self) {
        self.read.borrow_mut().request_headers = None;
    }

    fn with_request_headers<T>(&self, read: impl FnOnce(&Pairs) -> T) -> T {
        read(self.read.borrow_mut().request_headers.get_or_insert_with(crate::header_map::request_headers))
    }
}

impl Host for Gateway {
    fn now_ms(&self) -> u64 {
        let elapsed = || self.started.elapsed().as_millis() as u64;
        *self.read.borrow_mut().now_ms.get_or_insert_with(elapsed)
    }

    fn log(&self, level: Level, message: &str) {
        let level = match level {
            Level::Info => LogLevel::Info,
            Level::Warn => LogLevel::Warn,
            Level::Error => LogLevel::Error,
        };
        let _ = hostcalls::log(level, message);
    }

    fn enter(&self, context: u32) -> bool {
        self.forget_request_headers();
        hostcalls::set_effective_context(context).is_ok()
    }

    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        hostcalls::get_property(path.to_vec()).ok().flatten().filter(|value| !value.is_empty())
    }

    fn request_header(&self, name: &str) -> Option<String> {
        self.with_request_headers(|headers| headers.values(name).next().map(text))
    }

    fn request_header_values(&self, name: &str) -> Vec<String> {
        self.with_request_headers(|headers| headers.values(name).map(text).collect())
    }

    fn set_request_header(&self, name: &str, value: &str) {
        self.forget_request_headers();
        let _ = hostcalls::set_map_value(MapType::HttpRequestHeaders, name, Some(value));
    }

    fn remove_request_header(&self, name: &str) {
        self.forget_request_headers();
        let _ = hostcalls::remove_map_value(MapType::HttpRequestHeaders, name);
    }

    fn response_header(&self, name: &str) -> Option<String> {
        hostcalls::get_map_value_bytes(MapType::HttpResponseHeaders, name).ok().flatten().as_deref().map(text)
    }

    fn set_response_header(&self, name: &str, value: &str) {
        let _ = hostcalls::set_map_value(MapType::HttpResponseHeaders, name, Some(value));
    }

    fn remove_response_header(&self, name: &str) {
        let _ = hostcalls::remove_map_value(MapType::HttpResponseHeaders, name);
    }

    fn request_body(&self, at: usize, bytes_max: usize) -> Vec<u8> {
        hostcalls::get_buffer(BufferType::HttpRequestBody, at, bytes_max).ok().flatten().unwrap_or_default()
    }

    fn set_request_body(&self, replaced: usize, body: &[u8]) {
        let _ = hostcalls::set_buffer(BufferType::HttpRequestBody, 0, replaced, body);
    }

    fn response_body(&self, at: usize, bytes_max: usize) -> Vec<u8> {
        hostcalls::get_buffer(BufferType::HttpResponseBody, at, bytes_max).ok().flatten().unwrap_or_default()
    }

    fn set_response_body(&self, replaced: usize, body: &[u8]) {
        let _ = hostcalls::set_buffer(BufferType::HttpResponseBody, 0, replaced, body);
    }

    fn open_stream(&self, cluster: &str) -> Option<u32> {
        hostcalls::open_grpc_stream(&grpc_service(cluster), SERVICE, METHOD, vec![]).ok()
    }

    fn send(&self, token: u32, message: &[u8]) {
        let _ = hostcalls::send_grpc_stream_message(token, Some(message), false);
    }

    fn cancel_stream(&self, token: u32) {
        let _ = hostcalls::cancel_grpc_stream(token);
    }

    fn close_stream(&self, token: u32) {
        let _ = hostcalls::close_grpc_stream(token);
    }

    fn done(&self) {
        let _ = hostcalls::done();
    }

    /// The randomness comes from the hash keys of the standard library, which the gateway seeds.
    fn random(&self) -> u64 {
        let drawn = self.drawn.replace(self.drawn.get() + 1);
        RandomState::new().hash_one((hostcalls::get_current_time().ok(), std::ptr::from_ref(self), drawn))
    }

    fn resume_request(&self) {
        let _ = hostcalls::resume_http_request();
    }

    fn respond(&self, status: u32, headers: &[(String, String)], body: &[u8]) {
        let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let _ = hostcalls::send_http_response(status, headers, Some(body));
    }

    fn set_tick_ms(&self, period_ms: u64) {
        let _ = hostcalls::set_tick_period(Duration::from_millis(period_ms));
    }

    fn count(&self, counter: Counter, by: u64) {
        if by == 0 {
            return;
        }
        let ids = self.metrics.get_or_init(|| {
            let define = |counter: &Counter| hostcalls::define_metric(MetricType::Counter, counter.name());
            Counter::ALL.iter().map(|counter| define(counter).unwrap_or(u32::MAX)).collect()
        });
        let _ = hostcalls::increment_metric(ids[counter as usize], by as i64);
    }

    #[cfg(feature = "higress")]
    fn upstream_hosts(&self) -> Vec<(String, String)> {
        crate::higress::upstream_hosts()
    }

    #[cfg(feature = "higress")]
    fn override_host(&self, address: &str) -> bool {
        crate::higress::override_host(address)
    }

    #[cfg(feature = "higress")]
    fn keep_route(&self) {
        let _ = hostcalls::set_property(vec!["clear_route_cache"], Some(b"off"));
    }

    #[cfg(feature = "higress")]
    fn raise_body_limit(&self) {
        let _ = hostcalls::set_property(vec!["set_decoder_buffer_limit"], Some(crate::higress::BODY_LIMIT));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn action(flow: Flow) -> Action {
    match flow {
        Flow::Continue => Action::Continue,
        Flow::Pause => Action::Pause,
    }
}

fn grpc_message(bytes: usize) -> Vec<u8> {
    if bytes == 0 {
        return Vec::new();
    }
    hostcalls::get_buffer(BufferType::GrpcReceiveBuffer, 0, bytes).ok().flatten().unwrap_or_default()
}

/// Encodes the `envoy.config.core.v3.GrpcService` message that names a cluster. Gateways also accept a bare cluster
/// name, but only if the name does not parse as that message. A name of more than 125 bytes is passed bare, because its
/// message contains length bytes above 127, which the SDK's text argument cannot carry.
fn grpc_service(cluster: &str) -> String {
    match u8::try_from(cluster.len()) {
        Ok(len @ 1..=125) => format!("\n{}\n{}{cluster}", char::from(len + 2), char::from(len)),
        _ => cluster.to_owned(),
    }
}
