//! Requests that the plugin itself refuses.

use super::{Phase, Progress, Worker};
use crate::{
    host::{Host, Level},
    metrics::Counter,
};

/// A warning that a worker logs only once.
#[derive(Clone, Copy, Debug)]
enum Warning {
    InvalidAdmit,
    AmbiguousConsumer,
}

impl Worker {
    /// Refuses a request with a JSON error. The request never reaches an upstream.
    pub(super) fn refuse(
        &mut self,
        host: &dyn Host,
        context: u32,
        status: u32,
        kind: &str,
        message: &str,
    ) -> Progress {
        if let Some(stream) = self.streams.get_mut(&context) {
            stream.phase = Phase::Decided;
            stream.refused = true;
            stream.request_reader = None;
        }
        let mut headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        if status == 503 {
            headers.push(("retry-after".to_owned(), "1".to_owned()));
        }
        let body = format!(r#"{{"error":{{"type":"{kind}","message":"{message}"}}}}"#);
        host.respond(status, &headers, body.as_bytes());
        Progress::Responded
    }

    /// Refuses a request whose Admit the sidecar rejected as invalid. `on_error` does not apply, because the sidecar is
    /// reachable and granted nothing. Otherwise a client that can provoke such a rejection would bypass every limit.
    pub(super) fn refuse_invalid(&mut self, host: &dyn Host, context: u32) -> Progress {
        host.count(Counter::AdmitsInvalid, 1);
        self.warn_once(
            host,
            Warning::InvalidAdmit,
            "evenkeel: the sidecar rejected an Admit as invalid; the plugin answers such requests with 400",
        );
        self.drop_lease(host, context);
        self.set_report_header(context, "error");
        self.refuse(host, context, 400, "invalid_request", "The request cannot be admitted.")
    }

    /// Refuses a request whose path or cookies are too long to send. The sidecar does not know of the request.
    pub(super) fn refuse_too_long(&mut self, host: &dyn Host, context: u32) -> Progress {
        host.count(Counter::HeadersTooLong, 1);
        self.drop_lease(host, context);
        self.set_report_header(context, "error");
        let message = "The path or the cookies of the request are longer than 16 KiB.";
        self.refuse(host, context, 431, "headers_too_large", message)
    }

    /// Ends the lease of a request that does not go on.
    pub(super) fn drop_lease(&mut self, host: &dyn Host, context: u32) {
        if let Some(lease) = self.streams.get_mut(&context).and_then(|stream| stream.lease.take()) {
            self.lease_table.remove(lease, host.now_ms());
        }
    }

    /// Refuses a request whose consumer header has several values. The plugin can trust none of the values, and a
    /// request without a consumer would bypass the limits that are keyed by consumer.
    pub(super) fn refuse_ambiguous_consumer(&mut self, host: &dyn Host, context: u32) -> Progress {
        host.count(Counter::ConsumerAmbiguous, 1);
        let line = "evenkeel: a request names several consumers; the plugin answers such requests with 401. \
            The edge must remove the consumer header from every request";
        self.warn_once(host, Warning::AmbiguousConsumer, line);
        self.set_report_header(context, "error");
        let message = "The request names several consumers.";
        self.refuse(host, context, 401, "ambiguous_consumer", message)
    }

    fn warn_once(&mut self, host: &dyn Host, warning: Warning, line: &str) {
        let bit = 1 << warning as u8;
        if self.warned & bit == 0 {
            self.warned |= bit;
            host.log(Level::Warn, line);
        }
    }
}
