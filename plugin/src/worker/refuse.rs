//! Requests the plugin answers itself, as they cannot be asked for.

use super::{Phase, Worker, request::Step};
use crate::{
    host::{Host, Level},
    metrics::Counter,
};

/// Warnings said once in the life of a worker.
#[derive(Clone, Copy, Debug)]
enum Said {
    Invalid,
    Ambiguous,
}

impl Worker {
    /// Answers a request locally, with a JSON body. It never reaches an upstream.
    pub(super) fn refuse(
        &mut self,
        host: &dyn Host,
        context: u32,
        status: u32,
        kind: &str,
        message: &str,
    ) -> Step {
        if let Some(stream) = self.streams.get_mut(&context) {
            stream.phase = Phase::Decided;
            stream.refused = true;
        }
        let mut headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        if status == 503 {
            headers.push(("retry-after".to_owned(), "1".to_owned()));
        }
        let body = format!(r#"{{"error":{{"type":"{kind}","message":"{message}"}}}}"#);
        host.respond(status, &headers, body.as_bytes());
        Step::Answered
    }

    /// The sidecar refused the question as one it cannot understand, and granted nothing. It is there: `on_error` is not
    /// meant, and a client that found a way to be refused must not get past all limits by it.
    pub(super) fn invalid(&mut self, host: &dyn Host, context: u32) -> Step {
        host.count(Counter::AdmitsInvalid, 1);
        self.say_once(
            host,
            Said::Invalid,
            "evenkeel: the sidecar refused an Admit as invalid; such requests are answered 400",
        );
        let lease = self.streams.get_mut(&context).and_then(|stream| stream.lease.take());
        if let Some(lease) = lease {
            self.book.remove(lease, host.now_ms());
        }
        self.report(context, "error");
        self.refuse(host, context, 400, "invalid_request", "The request cannot be admitted.")
    }

    /// The consumer's header has several values. Neither may be believed, and without a consumer the request would get
    /// past the limits keyed by it.
    pub(super) fn ambiguous(&mut self, host: &dyn Host, context: u32) -> Step {
        host.count(Counter::ConsumerAmbiguous, 1);
        let line = "evenkeel: a request named several consumers; such requests are answered 401. \
            The edge must take the consumer's header off every request";
        self.say_once(host, Said::Ambiguous, line);
        self.report(context, "error");
        let message = "The request names several consumers.";
        self.refuse(host, context, 401, "ambiguous_consumer", message)
    }

    /// Writes a warning if it was not yet written.
    fn say_once(&mut self, host: &dyn Host, warning: Said, line: &str) {
        let bit = 1 << warning as u8;
        if self.said & bit == 0 {
            self.said |= bit;
            host.log(Level::Warn, line);
        }
    }
}
