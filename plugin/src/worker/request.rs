//! The way of a request: gather, ask, apply, go on.

use super::{
    Flow, Phase, Stream, Worker,
    gather::{Unread, begins_as_object, content_length, is_json, is_post, may_be_json},
    own,
    response::Reading,
};
use crate::{
    body::BodyFacts,
    book::Place,
    config::{Apply, OnError, header_name},
    facts,
    host::{Host, Method},
    metrics::Counter,
};
use evenkeel_proto::v1::{AdmitResponse, Admitted, Basis, Denied, Header, admit_response::Answer};
use prost::Message as _;
use std::rc::Rc;

/// gRPC status of a question the sidecar does not understand.
const INVALID_ARGUMENT: u32 = 3;

/// gRPC status of a call that took too long.
const DEADLINE_EXCEEDED: u32 = 4;

/// Longest ticket that is kept, in bytes.
pub(super) const TICKET_BYTES_MAX: usize = 4096;

/// gRPC status of a call that did not reach the sidecar.
const UNAVAILABLE: u32 = 14;

/// What became of a request that was to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The answer is awaited.
    Wait,
    /// It may go on.
    GoOn,
    /// It was answered locally.
    Answered,
}

impl Worker {
    /// Headers of a request.
    pub fn on_request_headers(&mut self, host: &dyn Host, context: u32, end_of_stream: bool) -> Flow {
        if self.streams.contains_key(&context) {
            return Flow::Continue;
        }
        if self.config.apply.by_address() {
            host.keep_route();
        }
        let mut stream = Stream::new(host.now_ms());
        // Before headers change: gateways then match the route again.
        stream.pool = facts::pool(host, &self.config);
        self.strip(host);
        stream.own = self.is_own(host);
        let own = stream.own;
        if (own || stream.pool.is_some()) && facts::consumer_is_ambiguous(host, &self.config) {
            self.streams.insert(context, stream);
            return self.ambiguous(host, context).flow();
        }
        let length = content_length(host);
        let fits = length.is_none_or(|length| length <= self.body_bytes_max(own) as u64);
        let reads = !own && self.config.read_body && !end_of_stream && is_post(host);
        let readable = own || (reads && may_be_json(host));
        if readable && fits && !end_of_stream {
            stream.phase = Phase::Gathering { since_ms: host.now_ms() };
            self.streams.insert(context, stream);
            return Flow::Pause;
        }
        self.streams.insert(context, stream);
        if own {
            let bytes = if end_of_stream { 0 } else { length.unwrap_or(0) };
            return self.ask_own(host, context, usize::try_from(bytes).unwrap_or(usize::MAX)).flow();
        }
        let bytes = length.filter(|_| is_json(host)).unwrap_or(0);
        let step = match reads {
            true if readable => self.ask_unread(host, context, Unread::TooLarge, length.unwrap_or(0)),
            // Such as sound, whose bytes are no prompt.
            true => self.ask_unread(host, context, Unread::NoJson, bytes),
            false => self.ask(host, context, &BodyFacts { prompt_bytes: bytes, ..BodyFacts::default() }),
        };
        step.flow()
    }

    /// Largest body that is gathered.
    pub(super) fn body_bytes_max(&self, own: bool) -> usize {
        if own { own::BODY_BYTES_MAX } else { self.config.body_bytes_max }
    }

    /// Whether any request waits for its body.
    pub(super) fn gathers(&self) -> bool {
        self.config.read_body || !self.config.own_paths.is_empty()
    }

    /// More of a request's body; `buffered` bytes of it are held.
    pub fn on_request_body(
        &mut self,
        host: &dyn Host,
        context: u32,
        buffered: usize,
        end_of_stream: bool,
    ) -> Flow {
        let Some(stream) = self.streams.get(&context) else { return Flow::Continue };
        match stream.phase {
            Phase::Gathering { .. } if end_of_stream || buffered > self.body_bytes_max(stream.own) => {
                self.ask_with_body(host, context, buffered).flow()
            }
            Phase::Gathering { .. } if !stream.own && !begins_as_object(host) => {
                self.ask_with_body(host, context, buffered).flow()
            }
            // What comes is buffered, up to the gateway's limit: the SDK has no answer that would only stop the
            // client from sending.
            Phase::Gathering { .. } | Phase::Asking { .. } => Flow::Pause,
            // It was answered, and must not reach the upstream.
            Phase::Decided if stream.own || stream.refused => Flow::Pause,
            Phase::Decided => Flow::Continue,
        }
    }

    /// Trailers of a request: the body is complete.
    pub fn on_request_trailers(&mut self, host: &dyn Host, context: u32) -> Flow {
        let Some(stream) = self.streams.get(&context) else { return Flow::Continue };
        match stream.phase {
            Phase::Gathering { .. } => self.ask_with_body(host, context, 0).flow(),
            Phase::Asking { .. } => Flow::Pause,
            Phase::Decided if stream.own || stream.refused => Flow::Pause,
            Phase::Decided => Flow::Continue,
        }
    }

    /// The answer to Admit.
    pub(super) fn on_admit_answer(&mut self, host: &dyn Host, context: u32, status: u32, body: &[u8]) {
        let response = if status == 0 { AdmitResponse::decode(body).ok() } else { None };
        let own = self.streams.get(&context).is_some_and(|stream| stream.own);
        let step = match response.and_then(|response| response.answer) {
            Some(Answer::Answered(answered)) if own => {
                self.reach.up(host, &self.config);
                self.on_answered(host, context, answered)
            }
            Some(Answer::Admitted(admitted)) if !own => {
                self.reach.up(host, &self.config);
                self.on_admitted(host, context, admitted)
            }
            Some(Answer::Denied(denied)) => {
                self.reach.up(host, &self.config);
                self.on_denied(host, context, denied)
            }
            _ if status == INVALID_ARGUMENT => {
                self.reach.up(host, &self.config);
                if own { self.own_invalid(host, context) } else { self.invalid(host, context) }
            }
            // Not what was asked for, or nothing.
            _ if own => {
                self.reach.down(host, &self.config, || format!("own request: gRPC status {status}"));
                self.own_unanswered(host, context)
            }
            _ => {
                let asked_ms = self.streams.get(&context).map_or(0, |stream| stream.asked_ms);
                // Envoy may call a deadline of its own UNAVAILABLE.
                let late = status == DEADLINE_EXCEEDED
                    || (status == UNAVAILABLE && host.now_ms() >= asked_ms + self.config.deadline_ms);
                host.count(if late { Counter::AdmitsTimeout } else { Counter::AdmitsFailed }, 1);
                self.reach.down(host, &self.config, || match status {
                    _ if late => format!("Admit: no answer within {} ms", self.config.deadline_ms),
                    0 => "Admit: unreadable answer".into(),
                    _ => format!("Admit: gRPC status {status}"),
                });
                self.unanswered(host, context)
            }
        };
        if step == Step::GoOn {
            host.resume_request();
        }
    }

    /// Issues a lease and asks the sidecar.
    pub(super) fn ask(&mut self, host: &dyn Host, context: u32, body: &BodyFacts) -> Step {
        let Some(stream) = self.streams.get_mut(&context) else { return Step::GoOn };
        stream.asked_ms = host.now_ms();
        let pool = stream.pool.take();
        let Some((pool, lease)) = pool.and_then(|p| Some((p.clone(), self.book.issue(p, context)?))) else {
            // No cluster to ask for, e.g. a route that redirects: nothing to place.
            stream.phase = Phase::Decided;
            return Step::GoOn;
        };
        stream.lease = Some(lease);
        let plain = self.config.read_usage && self.config.plain_responses;
        // Any change of headers, even one to nothing, makes the gateway match the route again.
        if plain && host.request_header("accept-encoding").is_some() {
            host.remove_request_header("accept-encoding");
        }
        let mut request = facts::admit(host, &self.config, &self.wanted_headers, body);
        request.pool = Some(pool.message());
        request.holder.clone_from(&self.holder);
        request.lease = lease;
        stream.traceparent.clone_from(&request.traceparent);
        let cluster = &self.config.sidecar_cluster;
        // Not cancelled when the stream ends first: Envoy makes it a call of the root context. So its answer always
        // comes back, and the SDK forgets its token.
        match host.call(cluster, Method::Admit, &request.encode_to_vec(), self.config.deadline_ms) {
            Some(token) => {
                stream.phase = Phase::Asking { token };
                self.asked.insert(token, context);
                Step::Wait
            }
            None => {
                host.count(Counter::AdmitsFailed, 1);
                self.reach.down(host, &self.config, || "Admit could not be sent".into());
                self.unanswered(host, context)
            }
        }
    }

    fn on_admitted(&mut self, host: &dyn Host, context: u32, admitted: Admitted) -> Step {
        let basis = admitted.basis();
        host.count(
            match basis {
                Basis::Local => Counter::AdmitsLocal,
                Basis::Open => Counter::AdmitsOpen,
                Basis::Shared | Basis::Unspecified => Counter::AdmitsShared,
            },
            1,
        );
        for header in admitted.request_headers.iter().filter(|header| sound(header)) {
            host.set_request_header(&header.name, &header.value);
        }
        if let Some(stream) = self.streams.get_mut(&context) {
            stream.response_headers = admitted.response_headers;
            stream.response_headers.retain(sound);
            if admitted.ticket.len() <= TICKET_BYTES_MAX {
                stream.ticket = admitted.ticket.into();
                if let Some(lease) = stream.lease.filter(|_| admitted.show_ticket) {
                    self.book.show(lease, Rc::clone(&stream.ticket));
                }
            } else {
                host.count(Counter::TicketsDropped, 1);
            }
        }
        if admitted.endpoint.is_empty() || basis == Basis::Open {
            self.place_openly(host, context);
            self.report(context, "open");
        } else {
            let basis = if basis == Basis::Local { "local" } else { "shared" };
            self.report(context, &format!("{basis} {}", admitted.endpoint));
            self.place(host, context, &admitted.endpoint);
        }
        Step::GoOn
    }

    fn on_denied(&mut self, host: &dyn Host, context: u32, denied: Denied) -> Step {
        host.count(Counter::AdmitsDenied, 1);
        if let Some(stream) = self.streams.get_mut(&context) {
            stream.phase = Phase::Decided;
            if let Some(lease) = stream.lease.take() {
                self.book.remove(lease, host.now_ms());
            }
        }
        let status = if (200..600).contains(&denied.status) { denied.status } else { 503 };
        self.report(context, "denied");
        host.respond(status, &headers_of(denied.headers), &denied.body);
        Step::Answered
    }

    /// The sidecar gave no answer. The lease stays in the book: the sidecar may have granted it, and if the
    /// request goes on it is counted by the next KeepAlive.
    fn unanswered(&mut self, host: &dyn Host, context: u32) -> Step {
        match self.config.on_error {
            OnError::Open => {
                host.count(Counter::FailOpen, 1);
                self.place_openly(host, context);
                self.report(context, "error");
                Step::GoOn
            }
            OnError::Closed => {
                host.count(Counter::FailClosed, 1);
                if let Some(stream) = self.streams.get_mut(&context) {
                    stream.phase = Phase::Decided;
                    if let Some(lease) = stream.lease {
                        self.book.place(lease, Place::Unknown);
                    }
                }
                self.report(context, "error");
                let headers = [("content-type", "application/json"), ("retry-after", "1")];
                let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
                let body = br#"{"error":{"type":"admission_unavailable","message":"The admission service did not answer. Try again."}}"#;
                host.respond(503, &headers, body);
                Step::Answered
            }
        }
    }

    /// Lets a request go where the gateway sends it. Where only a header can place it, the configured
    /// candidates are taken in turn.
    fn place_openly(&mut self, host: &dyn Host, context: u32) {
        let Some(stream) = self.streams.get_mut(&context) else { return };
        stream.phase = Phase::Decided;
        let Some(lease) = stream.lease else { return };
        let candidates = &self.config.candidates;
        let needed = matches!(self.config.apply, Apply::OriginalDst | Apply::Name { .. });
        if needed && !candidates.is_empty() {
            let next = candidates[(lease % candidates.len() as u64) as usize].address.clone();
            self.place(host, context, &next);
        } else {
            self.book.place(lease, Place::Unknown);
        }
    }

    /// Sends a request to an endpoint.
    fn place(&mut self, host: &dyn Host, context: u32, endpoint: &str) {
        let applied = match (&self.config.apply, self.config.apply.header()) {
            (_, Some(header)) => {
                host.set_request_header(header, endpoint);
                true
            }
            (_, None) => host.override_host(endpoint),
        };
        let Some(stream) = self.streams.get_mut(&context) else { return };
        stream.phase = Phase::Decided;
        stream.chosen = Some(endpoint.into());
        if let Some(lease) = stream.lease {
            let place = if applied { Place::On(endpoint.into()) } else { Place::Unknown };
            self.book.place(lease, place);
        }
    }

    /// Tells in a response header how the request was placed, if so configured.
    pub(super) fn report(&mut self, context: u32, how: &str) {
        if let (Some(name), Some(stream)) = (&self.config.report_header, self.streams.get_mut(&context)) {
            stream.response_headers.push(Header { name: name.clone(), value: how.to_owned() });
        }
    }

    /// Takes off the header that names the endpoint: a client must not choose it.
    fn strip(&self, host: &dyn Host) {
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
            chosen: None,
            strayed: false,
            asked_ms: now_ms,
            first_token_ms: None,
            responding: false,
            by_gateway: false,
            own: false,
            refused: false,
            ticket: Rc::default(),
            traceparent: String::new(),
            response_headers: Vec::new(),
            reading: Reading::default(),
        }
    }
}

impl Step {
    pub(super) fn flow(self) -> Flow {
        match self {
            Step::GoOn => Flow::Continue,
            Step::Wait | Step::Answered => Flow::Pause,
        }
    }
}

/// The sound ones of the headers for a local answer.
pub(super) fn headers_of(headers: Vec<Header>) -> Vec<(String, String)> {
    headers.into_iter().filter(sound).map(|header| (header.name, header.value)).collect()
}

/// Whether a header of the sidecar's answer can be written as it is.
fn sound(header: &Header) -> bool {
    header_name(&header.name) && header.value.bytes().all(|b| b == b'\t' || (b >= b' ' && b != 0x7f))
}
