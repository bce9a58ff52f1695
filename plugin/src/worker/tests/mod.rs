//! Tests of the worker against a mock gateway.

mod attributes;
mod body_buffer;
mod direct_response;
mod properties;
mod request;
mod response;
mod settle;
mod tick;

use evenkeel_proto::v1::{
    AdmitResponse, Admitted, Basis, Denied, Header, Outcome, Reason, admit_response::Answer,
};
use prost::Message;

use super::{Flow, Worker};
use crate::{
    host::Method,
    mock::{Mock, ROOT},
};

/// A gateway with one plugin instance.
struct Rig {
    host: Mock,
    worker: Worker,
}

impl Rig {
    fn new(config: &str) -> Rig {
        let host = Mock::new();
        let mut worker = Worker::new(ROOT, "holder".into());
        assert!(worker.configure(&host, config.as_bytes()), "{:?}", host.logs.borrow());
        host.logs.borrow_mut().clear();
        Rig { host, worker }
    }

    /// Starts a request without a body.
    fn arrive(&mut self, context: u32) -> Flow {
        self.host.open(context);
        self.worker.on_request_headers(&self.host, context, true)
    }

    /// Delivers the sidecar's answer to a stream's Admit.
    fn answer(&mut self, context: u32, status: u32, answer: Option<Answer>) {
        let calls = self.host.calls_of(Method::Admit);
        let token = calls.iter().rev().find(|call| call.context == context).unwrap().token;
        let body = answer.map(|answer| AdmitResponse { answer: Some(answer) }.encode_to_vec());
        self.worker.on_answer(&self.host, token, status, &body.unwrap_or_default());
    }

    /// Returns the lease number in a stream's Admit.
    fn lease(&self, context: u32) -> Option<u64> {
        let calls = self.host.calls_of(Method::Admit);
        calls.iter().find(|call| call.context == context).map(|call| call.admit().lease)
    }

    fn admit(&mut self, context: u32, endpoint: &str) {
        self.answer(context, 0, Some(admitted(endpoint, Basis::Shared)));
    }

    /// Starts the response, from an upstream address.
    fn respond(&mut self, context: u32, address: &str, status: u64) {
        self.host.effective.set(context);
        self.host.set_property(context, "upstream.address", address.as_bytes());
        self.host.set_property(context, "response.code", &status.to_le_bytes());
        self.worker.on_response_headers(&self.host, context);
    }

    /// Ends a stream and removes it.
    fn end(&mut self, context: u32) {
        self.host.effective.set(context);
        self.worker.on_end(&self.host, context);
        assert_eq!(self.host.effective.get(), context, "the effective context is left as it was");
        self.host.gone.borrow_mut().insert(context);
    }

    fn tick(&mut self) {
        self.host.effective.set(ROOT);
        self.worker.on_tick(&self.host);
    }

    /// Sends a KeepAlive and returns its message.
    fn list(&mut self) -> evenkeel_proto::v1::KeepAliveRequest {
        self.host.advance(60_000);
        self.tick();
        self.host.last_call(Method::KeepAlive).keep_alive()
    }

    fn outcome(&self) -> Outcome {
        self.host.last_call(Method::Settle).settle().outcome()
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
    })
}

fn header(name: &str, value: &str) -> Header {
    Header { name: name.into(), value: value.into() }
}
