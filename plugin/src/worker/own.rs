//! Requests that the sidecar answers itself, such as those of a quota path. They never go upstream and hold no lease.

use super::{
    Phase, Worker,
    request::{Step, headers_of},
};
use crate::{body::BodyFacts, book::PoolKey, facts, host::Host, host::Method, metrics::Counter};
use evenkeel_proto::v1::{Answered, OwnRequest};
use prost::Message as _;

/// Largest body of such a request, in bytes.
pub(super) const BODY_BYTES_MAX: usize = 64 << 10;

/// Longest method passed on, in bytes.
const METHOD_BYTES_MAX: usize = 32;

/// How long the sidecar may take for one. Nobody waits for a model meanwhile.
const TIMEOUT_MS: u64 = 2000;

impl Worker {
    /// Whether the effective stream's request is one the sidecar answers itself.
    pub(super) fn is_own(&self, host: &dyn Host) -> bool {
        let endings = &self.config.own_paths;
        !endings.is_empty() && {
            let path = facts::plain_path(&facts::path(host));
            endings.iter().any(|ending| path.ends_with(ending.as_str()))
        }
    }

    /// Asks the sidecar for the answer, with the body that is buffered.
    pub(super) fn ask_own(&mut self, host: &dyn Host, context: u32, buffered: usize) -> Step {
        if buffered > BODY_BYTES_MAX {
            return self.refuse_own(host, context, 413, "body_too_large", "The body is longer than 64 KiB.");
        }
        let Some(stream) = self.streams.get_mut(&context) else { return Step::Answered };
        stream.asked_ms = host.now_ms();
        let body =
            if stream.phase == Phase::Decided { Vec::new() } else { host.request_body(BODY_BYTES_MAX) };
        let mut request = facts::admit(host, &self.config, &self.wanted_headers, &BodyFacts::default());
        request.pool = stream.pool.as_ref().map(PoolKey::message);
        request.holder.clone_from(&self.holder);
        // No lease is taken. Should a sidecar that does not know own requests take one, the next KeepAlive that lists
        // its pool gives it back.
        request.lease = self.book.number();
        let method = facts::clean(&host.request_header(":method").unwrap_or_default(), METHOD_BYTES_MAX);
        if let Some(subject) = &mut request.subject {
            // The sidecar sees the path that was compared here.
            let query = subject.path.find('?').map_or("", |at| &subject.path[at..]);
            subject.path = facts::clean(&(facts::plain_path(&subject.path) + query), facts::VALUE_BYTES_MAX);
        }
        request.own = Some(OwnRequest { method, body });
        match host.call(&self.config.sidecar_cluster, Method::Admit, &request.encode_to_vec(), TIMEOUT_MS) {
            Some(token) => {
                stream.phase = Phase::Asking { token };
                self.asked.insert(token, context);
                Step::Wait
            }
            None => {
                self.reach.down(host, &self.config, || "Admit could not be sent".into());
                self.own_unanswered(host, context)
            }
        }
    }

    /// The sidecar's answer, for the client.
    pub(super) fn on_answered(&mut self, host: &dyn Host, context: u32, answered: Answered) -> Step {
        host.count(Counter::OwnAnswered, 1);
        if let Some(stream) = self.streams.get_mut(&context) {
            stream.phase = Phase::Decided;
        }
        let status = if (200..600).contains(&answered.status) { answered.status } else { 503 };
        host.respond(status, &headers_of(answered.headers), &answered.body);
        Step::Answered
    }

    /// There is no answer: whatever `on_error` says, the upstream knows nothing of such a request.
    pub(super) fn own_unanswered(&mut self, host: &dyn Host, context: u32) -> Step {
        self.refuse_own(host, context, 503, "service_unavailable", "The service did not answer. Try again.")
    }

    /// Its body did not come in time.
    pub(super) fn own_body_late(&mut self, host: &dyn Host, context: u32) -> Step {
        self.refuse_own(host, context, 408, "body_late", "The body did not come in time.")
    }

    /// The sidecar refused the question itself.
    pub(super) fn own_invalid(&mut self, host: &dyn Host, context: u32) -> Step {
        host.count(Counter::OwnFailed, 1);
        self.invalid(host, context)
    }

    fn refuse_own(&mut self, host: &dyn Host, context: u32, status: u32, kind: &str, message: &str) -> Step {
        host.count(Counter::OwnFailed, 1);
        self.refuse(host, context, status, kind, message)
    }
}
