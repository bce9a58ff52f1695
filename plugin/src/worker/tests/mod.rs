//! Tests of the worker against a mock gateway.

mod attributes;
mod body_buffer;
mod decoding;
mod direct_response;
mod first_token;
mod late_body;
mod outbox;
mod passed;
mod prefixes;
mod properties;
mod request;
mod response;
mod settle;
mod stream;
mod target;
mod tick;
mod unanswered;

use std::collections::HashMap;

use evenkeel_proto::v1::{
    AdmitAnswer, AdmitError, AdmitRequest, AdmitResponse, Admitted, Basis, Denied, Header, KeepAliveRequest,
    KeepAliveResponse, Outcome, Reason, Settings, SettleRequest, ToWorker, Welcome, admit_answer,
    admit_response::Answer,
};
use prost::Message;

use super::{Flow, Phase, Worker, connection::State};
use crate::mock::{Mock, ROOT};

/// A gateway with one plugin instance, whose stream to the sidecar is ready.
struct Rig {
    host: Mock,
    worker: Worker,
    /// The leases of the streams that have asked for one.
    leases: HashMap<u32, u64>,
}

impl Rig {
    fn new(config: &str) -> Rig {
        let mut rig = Rig::unconnected(config);
        rig.worker.connection.wanted = true;
        rig.tick();
        rig.welcome();
        rig.apply_list(KeepAliveResponse::default());
        rig.host.sent.borrow_mut().clear();
        rig.host.counts.borrow_mut().clear();
        rig
    }

    /// Creates an instance that has seen no request.
    fn unconnected(config: &str) -> Rig {
        let host = Mock::new();
        let mut worker = Worker::new(ROOT, "holder".into());
        assert!(worker.configure(&host, config.as_bytes()), "{:?}", host.logs.borrow());
        host.logs.borrow_mut().clear();
        Rig { host, worker, leases: HashMap::new() }
    }

    /// Starts a request without a body.
    fn arrive(&mut self, context: u32) -> Flow {
        self.host.open(context);
        let flow = self.worker.on_request_headers(&self.host, context, true);
        self.note_lease(context);
        flow
    }

    /// Remembers the lease of a stream that waits for the sidecar.
    fn note_lease(&mut self, context: u32) {
        if let Some(Phase::AwaitingAdmit { lease }) = self.worker.streams.get(&context).map(|s| &s.phase) {
            self.leases.insert(context, *lease);
        }
    }

    /// Delivers a message from the sidecar.
    fn say(&mut self, message: &ToWorker) {
        self.say_on(self.host.token().unwrap(), message);
    }

    fn say_on(&mut self, token: u32, message: &ToWorker) {
        self.host.call(ROOT);
        self.worker.on_stream_message(&self.host, token, &message.encode_to_vec());
    }

    fn welcome(&mut self) {
        let secret = b"the sidecar's".to_vec();
        self.say(&ToWorker {
            welcome: Some(Welcome { secret, ..Welcome::default() }),
            ..ToWorker::default()
        });
    }

    fn apply_list(&mut self, repaired: KeepAliveResponse) {
        self.say(&ToWorker { repaired: Some(repaired), ..ToWorker::default() });
    }

    fn change_settings(&mut self, settings: Settings) {
        self.say(&ToWorker { settings: Some(settings), ..ToWorker::default() });
    }

    fn acknowledge(&mut self, settled_through: u64) {
        self.say(&ToWorker { settled_through, ..ToWorker::default() });
    }

    /// Ends the stream to the sidecar with a gRPC status.
    fn cut(&mut self, status: u32) {
        self.cut_stream(self.host.token().unwrap(), status);
    }

    fn cut_stream(&mut self, token: u32, status: u32) {
        self.host.end_stream(token);
        self.host.call(ROOT);
        self.worker.on_stream_close(&self.host, token, status);
    }

    /// Cuts the stream and prevents another one before the deadline of any request.
    fn cut_off(&mut self) {
        self.cut(14);
        self.worker.connection.state = State::Closed { retry_at_ms: u64::MAX };
    }

    /// Opens the next stream and makes it ready.
    fn resume(&mut self) {
        self.worker.connection.state = State::Closed { retry_at_ms: 0 };
        self.tick();
        self.welcome();
    }

    /// Delivers the sidecar's answer to a stream's Admit: `answer`, or the error `code`.
    fn answer(&mut self, context: u32, code: u32, answer: Option<Answer>) {
        self.note_lease(context);
        self.answer_on(self.host.token().unwrap(), self.leases[&context], code, answer);
    }

    fn answer_on(&mut self, token: u32, lease: u64, code: u32, answer: Option<Answer>) {
        let answer = match answer {
            Some(answer) => Some(admit_answer::Answer::Response(AdmitResponse { answer: Some(answer) })),
            None if code == 0 => None,
            None => Some(admit_answer::Answer::Error(AdmitError { code, message: "m".into() })),
        };
        let answers = vec![AdmitAnswer { lease, answer }];
        self.say_on(token, &ToWorker { answers, ..ToWorker::default() });
    }

    /// Returns the lease number in a stream's Admit.
    fn lease(&self, context: u32) -> Option<u64> {
        self.leases.get(&context).copied()
    }

    fn admit(&mut self, context: u32, endpoint: &str) {
        self.answer(context, 0, Some(admitted(endpoint, Basis::Shared)));
    }

    /// Lets the deadline of every Admit pass. The first tick after it lets the worker read what has arrived.
    fn miss_deadlines(&mut self) {
        self.host.advance(50);
        self.tick();
        self.host.advance(1);
        self.tick();
    }

    /// Starts the response, from an upstream address.
    fn respond(&mut self, context: u32, address: &str, status: u64) {
        self.host.call(context);
        self.host.set_property(context, "upstream.address", address.as_bytes());
        self.host.set_property(context, "response.code", &status.to_le_bytes());
        self.worker.on_response_headers(&self.host, context);
    }

    /// Ends a stream and removes it.
    fn end(&mut self, context: u32) {
        self.host.call(context);
        self.worker.on_end(&self.host, context);
        assert_eq!(self.host.effective.get(), context, "the effective context is left as it was");
        self.host.gone.borrow_mut().insert(context);
    }

    fn tick(&mut self) {
        self.host.call(ROOT);
        self.worker.on_tick(&self.host);
    }

    /// Lets time pass while the sidecar is heard.
    fn pass(&mut self, ms: u64) {
        self.host.advance(ms);
        self.say(&ToWorker::default());
    }

    /// Lets the plugin send a list and returns it.
    fn list(&mut self) -> KeepAliveRequest {
        self.worker.list.due_now();
        self.tick();
        self.host.lists().pop().unwrap()
    }

    fn last_admit(&self) -> AdmitRequest {
        self.host.admits().pop().unwrap()
    }

    /// Lets the plugin send its settlements, and returns all that it has sent.
    fn settlements(&mut self) -> Vec<SettleRequest> {
        self.tick();
        self.host.settlements()
    }

    fn last_settlement(&mut self) -> SettleRequest {
        self.settlements().pop().unwrap()
    }

    /// Lets the plugin send its cancellations, and returns all that it has sent.
    fn cancelled(&mut self) -> Vec<u64> {
        self.tick();
        self.host.cancelled()
    }

    fn outcome(&mut self) -> Outcome {
        self.last_settlement().outcome()
    }

    fn header(&self, context: u32, name: &str) -> Option<String> {
        self.host.with_stream(context, |s| s.request_headers.get(name).cloned())
    }

    fn resumed(&self, context: u32) -> u32 {
        self.host.with_stream(context, |s| s.resumed)
    }
}

/// Request headers in a table of test cases.
type Headers = [(&'static str, &'static str)];

fn admitted(endpoint: &str, basis: Basis) -> Answer {
    Answer::Admitted(Admitted { endpoint: endpoint.into(), basis: basis.into(), ..Admitted::default() })
}

fn denied() -> Answer {
    Answer::Denied(Denied {
        status: 429,
        reason: Reason::Limit.into(),
        retry_after_ms: 2000,
        headers: vec![header("retry-after", "2"), header("content-type", "application/json")],
        body: b"{}".to_vec(),
        ..Denied::default()
    })
}

fn header(name: &str, value: &str) -> Header {
    Header { name: name.into(), value: value.into() }
}
