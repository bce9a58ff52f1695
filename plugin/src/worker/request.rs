//! Handles requests: buffers the body, sends Admit, applies the answer, and lets the request proceed.

use std::rc::Rc;

use evenkeel_proto::v1::{AdmitError, Admitted, Basis, Denied, Header, admit_answer, admit_response::Answer};
use prost::Message as _;

use super::{
    Flow, Phase, Progress, Stream, Worker,
    body_buffer::{UnreadReason, content_length, is_json, may_be_json},
    direct_response,
    headers::{is_valid_header, valid_headers},
    passed::Cause,
    request_body::{RequestReader, RequestTarget},
    response::ResponseBody,
};
use crate::{
    attributes,
    config::{Apply, OnError, OnUnreadBody},
    host::Host,
    lease_table::Location,
    metrics::Counter,
    path::call::Call,
    request_body::BodySummary,
};

/// Code of an admission that the sidecar rejects as invalid.
const INVALID_ARGUMENT: u32 = 3;

/// Code of an admission that the sidecar itself could not decide in time.
const DEADLINE_EXCEEDED: u32 = 4;

/// Largest ticket that the plugin stores, in bytes. A ticket is data in the answer to Admit that Settle returns to the
/// sidecar.
pub(super) const TICKET_BYTES_MAX: usize = 4096;

/// Headers with which a client offers to receive a compressed response, or compressed messages of a WebSocket.
const COMPRESSION_HEADERS: [&str; 2] = ["accept-encoding", "sec-websocket-extensions"];

impl Worker {
    /// Handles the headers of a request.
    pub fn on_request_headers(&mut self, host: &dyn Host, context: u32, end_of_stream: bool) -> Flow {
        if self.streams.contains_key(&context) {
            return Flow::Continue;
        }
        if self.config.apply.by_address() {
            host.keep_route();
        }
        let mut stream = Stream::new(host.now_ms());
        // Read the pool before any header changes, because gateways match the route again after a change.
        stream.pool = attributes::pool(host, &self.config);
        self.remove_endpoint_header(host);
        let is_admin_call = self.is_admin_path(host);
        stream.is_admin_call = is_admin_call;
        if (is_admin_call || stream.pool.is_some()) && attributes::consumer_is_ambiguous(host, &self.config) {
            self.streams.insert(context, stream);
            return self.refuse_ambiguous_consumer(host, context).flow();
        }
        let length = content_length(host);
        if is_admin_call {
            let fits = length.is_none_or(|length| length <= direct_response::BODY_BYTES_MAX as u64);
            if fits && !end_of_stream {
                stream.phase = Phase::BufferingBody { since_ms: host.now_ms() };
            }
            let is_held = stream.phase != Phase::Decided;
            self.streams.insert(context, stream);
            if is_held {
                host.raise_body_limit();
                return Flow::Pause;
            }
            let bytes = if end_of_stream { 0 } else { length.unwrap_or(0) };
            return self.send_admin_call(host, context, usize::try_from(bytes).unwrap_or(usize::MAX)).flow();
        }
        stream.target = RequestTarget::of(host, &self.config, end_of_stream);
        let reads_body = self.config.read_body && !end_of_stream && stream.target.has_model_body;
        let is_readable = reads_body && may_be_json(host);
        let is_too_large = length.is_some_and(|length| length > self.config.body_bytes_max as u64)
            && self.config.on_unread_body == OnUnreadBody::Refuse;
        let is_held = is_readable && !is_too_large;
        if is_held {
            stream.phase = Phase::BufferingBody { since_ms: host.now_ms() };
            // The hashes of a batch's requests mean nothing.
            let hashes_prompt = stream.target.call == Call::Generation;
            let prefixes = self.wanted.prefixes.filter(|_| hashes_prompt);
            stream.request_reader = Some(Box::new(RequestReader::new(prefixes)));
            host.raise_body_limit();
        }
        self.streams.insert(context, stream);
        match (reads_body, is_readable) {
            _ if is_held => Flow::Pause,
            (true, true) => self.admit_unread_body(host, context, UnreadReason::TooLarge).flow(),
            (true, false) => self.admit_unread_body(host, context, UnreadReason::NotJson).flow(),
            (false, _) => {
                let prompt_bytes = length.filter(|_| is_json(host)).unwrap_or(0);
                self.send_admit(host, context, &BodySummary { prompt_bytes, ..BodySummary::default() }).flow()
            }
        }
    }

    /// Returns whether the configuration requires buffering bodies.
    pub(super) fn buffers_bodies(&self) -> bool {
        self.config.read_body || !self.config.admin_paths.is_empty()
    }

    /// Handles a part of a request body. `bytes` is the number of body bytes in the gateway's buffer while the request is
    /// paused, and the size of this part otherwise.
    pub fn on_request_body(
        &mut self,
        host: &dyn Host,
        context: u32,
        bytes: usize,
        end_of_stream: bool,
    ) -> Flow {
        let Some(stream) = self.streams.get_mut(&context) else { return Flow::Continue };
        match stream.phase {
            Phase::BufferingBody { .. } if stream.is_admin_call => {
                stream.admin_body_bytes = stream.admin_body_bytes.max(bytes);
                let buffered = stream.admin_body_bytes;
                if end_of_stream || buffered > direct_response::BODY_BYTES_MAX {
                    return self.send_admin_call(host, context, buffered).flow();
                }
                Flow::Pause
            }
            Phase::BufferingBody { .. } => self.on_held_body(host, context, end_of_stream).flow(),
            // The client received a local response, so the body must not reach the upstream.
            Phase::Decided if stream.is_admin_call || stream.refused => Flow::Pause,
            // The gateway buffers the bytes that arrive, up to its own limit. The SDK has no action that only stops the
            // client from sending.
            Phase::AwaitingAdmit { .. } => self.on_late_body(host, context, true, end_of_stream),
            Phase::Decided => self.on_late_body(host, context, false, end_of_stream),
        }
    }

    /// Handles the trailers of a request, which complete its body.
    pub fn on_request_trailers(&mut self, host: &dyn Host, context: u32) -> Flow {
        let Some(stream) = self.streams.get(&context) else { return Flow::Continue };
        match stream.phase {
            Phase::BufferingBody { .. } if stream.is_admin_call => {
                let buffered = stream.admin_body_bytes;
                self.send_admin_call(host, context, buffered).flow()
            }
            Phase::BufferingBody { .. } => self.on_held_body(host, context, true).flow(),
            Phase::Decided if stream.is_admin_call || stream.refused => Flow::Pause,
            _ if stream.is_body_changed(&self.config) => self.refuse_changed_body(host, context).flow(),
            Phase::AwaitingAdmit { .. } => Flow::Pause,
            Phase::Decided => Flow::Continue,
        }
    }

    /// Applies the sidecar's answer to a stream's Admit. The stream must be the effective context.
    pub(super) fn on_admit_answer(
        &mut self,
        host: &dyn Host,
        context: u32,
        answer: Option<admit_answer::Answer>,
    ) {
        let (response, error) = match answer {
            Some(admit_answer::Answer::Response(response)) => (response.answer, None),
            Some(admit_answer::Answer::Error(error)) => (None, Some(error)),
            None => (None, None),
        };
        let is_admin_call = self.streams.get(&context).is_some_and(|stream| stream.is_admin_call);
        self.connectivity.on_answer(host, &self.config);
        let progress = match response {
            Some(Answer::DirectResponse(response)) if is_admin_call => {
                self.on_direct_response(host, context, response)
            }
            Some(Answer::Admitted(admitted)) if !is_admin_call => self.on_admitted(host, context, admitted),
            Some(Answer::Denied(denied)) => self.on_denied(host, context, denied),
            _ if error.as_ref().is_some_and(|error| error.code == INVALID_ARGUMENT) => {
                if is_admin_call {
                    self.admin_call_invalid(host, context)
                } else {
                    self.refuse_invalid(host, context)
                }
            }
            // The sidecar failed, or sent an answer of the wrong kind.
            _ => {
                let AdmitError { code, message } = error.unwrap_or_default();
                let (counter, cause) = match code {
                    DEADLINE_EXCEEDED => (Counter::AdmitsTimeout, Cause::Late),
                    _ => (Counter::AdmitsFailed, Cause::Failed),
                };
                let reason = || format!("Admit failed: code {code} {message}");
                self.fail_admission(host, context, counter, cause, reason)
            }
        };
        if progress == Progress::Proceed {
            host.resume_request();
        }
    }

    /// Sends an admission, or keeps it until the stream is ready.
    pub(super) fn ask(
        &mut self,
        host: &dyn Host,
        context: u32,
        lease: u64,
        request: Vec<u8>,
        deadline_ms: u64,
    ) -> Progress {
        let now_ms = host.now_ms();
        let deadline_ms = now_ms + deadline_ms;
        self.connection.wanted = true;
        if self.admissions.is_full() {
            let reason = || "too many requests wait for an answer".to_owned();
            return self.fail_admission(host, context, Counter::AdmitsFailed, Cause::Late, reason);
        }
        if !self.connection.may_answer_by(deadline_ms) {
            let reason = || "no stream to the sidecar".to_owned();
            return self.fail_admission(host, context, Counter::AdmitsFailed, Cause::Unreachable, reason);
        }
        if let Some(stream) = self.streams.get_mut(&context) {
            stream.phase = Phase::AwaitingAdmit { lease };
        }
        self.admissions.add(lease, context, deadline_ms, request);
        self.send_admission(host, lease);
        self.hurry(host, now_ms);
        Progress::Waiting
    }

    /// Issues a lease and sends Admit.
    pub(super) fn send_admit(&mut self, host: &dyn Host, context: u32, body: &BodySummary) -> Progress {
        let Some(stream) = self.streams.get_mut(&context) else { return Progress::Proceed };
        stream.admit_sent_ms = host.now_ms();
        let Some(pool) = stream.pool.take() else {
            // A request without a cluster, for example on a route that redirects, has no endpoint to choose.
            stream.phase = Phase::Decided;
            stream.request_reader = None;
            return Progress::Proceed;
        };
        let Some(lease) = self.lease_table.issue(pool.clone(), context) else {
            let reason = || "too many pools have requests in flight".to_owned();
            return self.fail_admission(host, context, Counter::AdmitsFailed, Cause::Failed, reason);
        };
        stream.lease = Some(lease);
        let uncompressed = self.config.read_usage && self.config.uncompressed_responses;
        // Check for the header first, because any change of headers makes the gateway match the route again.
        for name in COMPRESSION_HEADERS.iter().filter(|_| uncompressed) {
            if host.request_header(name).is_some() {
                host.remove_request_header(name);
            }
        }
        let prefixes = &body.prefixes;
        let body = stream.target.request_body(&self.config, body);
        let mut request = attributes::admit_request(host, &self.config, &self.wanted, &body);
        request.prefix_hashes.clone_from(&prefixes.hashes);
        request.prefix_bytes.clone_from(&prefixes.bytes);
        request.pool = Some(pool.to_proto());
        request.lease = lease;
        stream.traceparent.clone_from(&request.traceparent);
        if attributes::is_too_long(&request) {
            return self.refuse_too_long(host, context);
        }
        // With `closed`, no request goes on without an answer.
        if self.config.on_error == OnError::Open {
            stream.refusal_keys = self.refusals.keys(&request);
        }
        self.ask(host, context, lease, request.encode_to_vec(), self.config.deadline_ms)
    }

    fn on_admitted(&mut self, host: &dyn Host, context: u32, admitted: Admitted) -> Progress {
        let basis = admitted.basis();
        host.count(
            match basis {
                Basis::Local => Counter::AdmitsLocal,
                Basis::Open => Counter::AdmitsOpen,
                Basis::Shared | Basis::Unspecified => Counter::AdmitsShared,
            },
            1,
        );
        for header in admitted.request_headers.iter().filter(|header| is_valid_header(header)) {
            host.set_request_header(&header.name, &header.value);
        }
        if let Some(stream) = self.streams.get_mut(&context) {
            stream.response_headers = admitted.response_headers;
            stream.response_headers.retain(is_valid_header);
        }
        self.keep_unread(host, context, admitted.unread_tokens);
        self.keep_ticket(host, context, admitted.ticket, admitted.show_ticket);
        if admitted.endpoint.is_empty() || basis == Basis::Open {
            self.place_by_gateway(host, context);
            self.set_report_header(context, "open");
        } else {
            let basis = if basis == Basis::Local { "local" } else { "shared" };
            self.set_report_header(context, &format!("{basis} {}", admitted.endpoint));
            self.apply_endpoint(host, context, &admitted.endpoint);
        }
        Progress::Proceed
    }

    /// Keeps the tokens that the endpoint must read. Reports the first token if it has come before the sidecar's answer.
    fn keep_unread(&mut self, host: &dyn Host, context: u32, tokens: u64) {
        if let Some(lease) = self.streams.get(&context).and_then(|stream| stream.lease).filter(|_| tokens > 0)
        {
            self.lease_table.set_unread(lease, tokens);
            self.report_first_token(host, context);
        }
    }

    /// Keeps the ticket for the settlement.
    fn keep_ticket(&mut self, host: &dyn Host, context: u32, ticket: Vec<u8>, is_listed: bool) {
        if ticket.len() > TICKET_BYTES_MAX {
            return host.count(Counter::TicketsDropped, 1);
        }
        let Some(stream) = self.streams.get_mut(&context) else { return };
        stream.ticket = ticket.into();
        if let Some(lease) = stream.lease.filter(|_| is_listed) {
            self.lease_table.show_ticket(lease, Rc::clone(&stream.ticket));
        }
    }

    /// Handles the answer to a request that has gone on without it. The ticket lets the settlement charge the request.
    pub(super) fn on_late_answer(
        &mut self,
        host: &dyn Host,
        context: u32,
        answer: Option<admit_answer::Answer>,
    ) {
        host.count(Counter::AdmitsLate, 1);
        let Some(admit_answer::Answer::Response(response)) = answer else { return };
        match response.answer {
            Some(Answer::Admitted(admitted)) => {
                self.keep_unread(host, context, admitted.unread_tokens);
                self.keep_ticket(host, context, admitted.ticket, admitted.show_ticket);
            }
            Some(Answer::Denied(denied)) => {
                if let Some(stream) = self.streams.get(&context) {
                    self.refusals.remember(&stream.refusal_keys, &denied, host.now_ms());
                }
            }
            _ => {}
        }
    }

    fn on_denied(&mut self, host: &dyn Host, context: u32, denied: Denied) -> Progress {
        host.count(Counter::AdmitsDenied, 1);
        if let Some(stream) = self.streams.get(&context) {
            self.refusals.remember(&stream.refusal_keys, &denied, host.now_ms());
        }
        self.deny(host, context, denied)
    }

    pub(super) fn deny(&mut self, host: &dyn Host, context: u32, denied: Denied) -> Progress {
        if let Some(stream) = self.streams.get_mut(&context) {
            stream.phase = Phase::Decided;
            stream.request_reader = None;
        }
        self.drop_lease(host, context);
        let status = if (200..600).contains(&denied.status) { denied.status } else { 503 };
        self.set_report_header(context, "denied");
        host.respond(status, &valid_headers(denied.headers), &denied.body);
        Progress::Responded
    }

    /// Lets the gateway choose the endpoint. In modes where only a header selects the endpoint, uses the configured
    /// candidates in turn.
    pub(super) fn place_by_gateway(&mut self, host: &dyn Host, context: u32) {
        let Some(stream) = self.streams.get_mut(&context) else { return };
        stream.phase = Phase::Decided;
        let Some(lease) = stream.lease else { return };
        let candidates = &self.config.candidates;
        let needs_header = matches!(self.config.apply, Apply::OriginalDst | Apply::Name { .. });
        if needs_header && !candidates.is_empty() {
            let next = candidates[(lease % candidates.len() as u64) as usize].address.clone();
            self.apply_endpoint(host, context, &next);
        } else {
            self.lease_table.set_location(lease, Location::Unknown);
        }
    }

    /// Directs a request to an endpoint.
    fn apply_endpoint(&mut self, host: &dyn Host, context: u32, endpoint: &str) {
        let applied = match self.config.apply.header() {
            Some(header) => {
                host.set_request_header(header, endpoint);
                true
            }
            None => host.override_host(endpoint),
        };
        let Some(stream) = self.streams.get_mut(&context) else { return };
        stream.phase = Phase::Decided;
        stream.chosen_endpoint = Some(endpoint.into());
        if let Some(lease) = stream.lease {
            let location = if applied { Location::At(endpoint.into()) } else { Location::Unknown };
            self.lease_table.set_location(lease, location);
        }
    }

    /// Adds the configured report header to the response, with `placement` as its value.
    pub(super) fn set_report_header(&mut self, context: u32, placement: &str) {
        if let (Some(name), Some(stream)) = (&self.config.report_header, self.streams.get_mut(&context)) {
            stream.response_headers.push(Header { name: name.clone(), value: placement.to_owned() });
        }
    }

    /// Removes the header that selects the endpoint, because a client must not choose the endpoint.
    fn remove_endpoint_header(&self, host: &dyn Host) {
        if let Some(header) = self.config.apply.header()
            && host.request_header(header).is_some()
        {
            host.remove_request_header(header);
        }
    }
}

impl Stream {
    fn new(now_ms: u64) -> Stream {
        Stream {
            phase: Phase::Decided,
            pool: None,
            lease: None,
            chosen_endpoint: None,
            mismatch_counted: false,
            admit_sent_ms: now_ms,
            first_token_ms: None,
            response_started: false,
            is_via_upstream: None,
            status: None,
            complete: false,
            is_admin_call: false,
            refused: false,
            target: RequestTarget::default(),
            request_reader: None,
            admin_body_bytes: 0,
            ticket: Rc::default(),
            refusal_keys: Vec::new(),
            traceparent: String::new(),
            response_headers: Vec::new(),
            response_body: ResponseBody::default(),
        }
    }
}

impl Progress {
    pub(super) fn flow(self) -> Flow {
        match self {
            Progress::Proceed => Flow::Continue,
            Progress::Waiting | Progress::Responded => Flow::Pause,
        }
    }
}
