//! Admin calls: requests that the sidecar answers itself, such as requests for a quota path. Admin calls never go
//! upstream and hold no lease.

use evenkeel_proto::v1::{AdminCall, DirectResponse, RequestBody};
use prost::Message as _;

use super::{Phase, Progress, Worker, headers::valid_headers};
use crate::{attributes, host::Host, lease_table::PoolKey, metrics::Counter, path, text::sanitize};

/// Largest body of an admin call, in bytes.
pub(super) const BODY_BYTES_MAX: usize = 64 << 10;

const METHOD_BYTES_MAX: usize = 32;

/// How long an admin call waits for the answer. This is longer than the default `deadline_ms`, because no model request
/// waits.
const DEADLINE_MS: u64 = 2000;

impl Worker {
    /// Returns whether the effective stream's path is one of `admin_paths`.
    pub(super) fn is_admin_path(&self, host: &dyn Host) -> bool {
        let suffixes = &self.config.admin_paths;
        !suffixes.is_empty() && {
            let path = path::normalize(&attributes::request_path(host));
            suffixes.iter().any(|suffix| path.ends_with(suffix.as_str()))
        }
    }

    /// Sends the request, with its buffered body, to the sidecar.
    pub(super) fn send_admin_call(&mut self, host: &dyn Host, context: u32, buffered: usize) -> Progress {
        if buffered > BODY_BYTES_MAX {
            let message = "The request body is longer than 64 KiB.";
            return self.refuse_admin_call(host, context, 413, "body_too_large", message);
        }
        let Some(stream) = self.streams.get_mut(&context) else { return Progress::Responded };
        stream.admit_sent_ms = host.now_ms();
        let body =
            if stream.phase == Phase::Decided { Vec::new() } else { host.request_body(0, BODY_BYTES_MAX) };
        let mut request =
            attributes::admit_request(host, &self.config, &self.wanted, &RequestBody::default());
        request.pool = stream.pool.as_ref().map(PoolKey::to_proto);
        // An admin call takes no lease, but needs a number for its answer.
        let lease = self.lease_table.issue_number();
        request.lease = lease;
        let method = sanitize(&host.request_header(":method").unwrap_or_default(), METHOD_BYTES_MAX);
        if let Some(subject) = &mut request.subject {
            // Send the normalized path, which is the path that `is_admin_path` compared.
            let query = subject.path.find('?').map_or("", |at| &subject.path[at..]);
            subject.path = sanitize(&(path::normalize(&subject.path) + query), attributes::WHOLE_BYTES_MAX);
        }
        request.admin_call = Some(AdminCall { method, body });
        self.ask(host, context, lease, request.encode_to_vec(), DEADLINE_MS)
    }

    /// Forwards the sidecar's response to the client.
    pub(super) fn on_direct_response(
        &mut self,
        host: &dyn Host,
        context: u32,
        response: DirectResponse,
    ) -> Progress {
        host.count(Counter::DirectResponses, 1);
        if let Some(stream) = self.streams.get_mut(&context) {
            stream.phase = Phase::Decided;
        }
        let status = if (200..600).contains(&response.status) { response.status } else { 503 };
        host.respond(status, &valid_headers(response.headers), &response.body);
        Progress::Responded
    }

    /// Refuses an admin call that the sidecar did not answer. `on_error` does not apply, because an upstream cannot
    /// serve the request.
    pub(super) fn admin_call_unanswered(&mut self, host: &dyn Host, context: u32) -> Progress {
        let message = "The service did not answer. Try again.";
        self.refuse_admin_call(host, context, 503, "service_unavailable", message)
    }

    pub(super) fn admin_call_body_timed_out(&mut self, host: &dyn Host, context: u32) -> Progress {
        let message = "The request body did not arrive in time.";
        self.refuse_admin_call(host, context, 408, "body_timeout", message)
    }

    /// Refuses an admin call that the sidecar rejected as invalid.
    pub(super) fn admin_call_invalid(&mut self, host: &dyn Host, context: u32) -> Progress {
        host.count(Counter::DirectResponsesFailed, 1);
        self.refuse_invalid(host, context)
    }

    fn refuse_admin_call(
        &mut self,
        host: &dyn Host,
        context: u32,
        status: u32,
        kind: &str,
        message: &str,
    ) -> Progress {
        host.count(Counter::DirectResponsesFailed, 1);
        self.refuse(host, context, status, kind, message)
    }
}
