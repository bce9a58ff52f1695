//! Buffers a request body until Admit can be sent, and handles bodies that cannot be read.

use super::{Phase, Progress, Stream, Worker};
use crate::{
    attributes,
    config::OnUnreadBody,
    host::Host,
    metrics::Counter,
    request_body::{self, BodySummary},
};

/// Model name for a request whose body could not be read. Limits can use this name as a key like any other model.
/// Otherwise a client could bypass every limit on models by sending an unreadable body.
pub(super) const UNKNOWN_MODEL: &str = "(unknown)";

/// Number of bytes inspected to decide whether a body starts as a JSON object.
const HEAD_BYTES: usize = 256;

/// Why a body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnreadReason {
    TooLarge,
    TimedOut,
    NotJson,
}

impl Worker {
    /// Ends the wait for up to `max` bodies that are not complete within `body_wait_ms`. Returns their number. Changes
    /// the effective context.
    pub(super) fn time_out_bodies(&mut self, host: &dyn Host, now_ms: u64, max: usize) -> usize {
        if !self.buffers_bodies() {
            return 0;
        }
        let is_late = |s: &Stream| matches!(s.phase, Phase::BufferingBody { since_ms } if now_ms >= since_ms + self.config.body_wait_ms);
        let late = self.streams.iter().filter(|(_, s)| is_late(s)).map(|(context, _)| *context);
        let late: Vec<u32> = late.take(max).collect();
        for context in &late {
            let context = *context;
            if host.enter(context) {
                let progress = if self.streams.get(&context).is_some_and(|stream| stream.is_admin_call) {
                    host.count(Counter::BodyTimeouts, 1);
                    self.admin_call_body_timed_out(host, context)
                } else {
                    let buffered = host.request_body(self.config.body_bytes_max).len() as u64;
                    let bytes = content_length(host).unwrap_or(0).max(buffered);
                    self.admit_unread_body(host, context, UnreadReason::TimedOut, bytes)
                };
                if progress == Progress::Proceed {
                    host.resume_request();
                }
            }
        }
        late.len()
    }

    /// Sends Admit for a request whose body is complete, or handles a body that is too large or not JSON.
    pub(super) fn admit_with_body(&mut self, host: &dyn Host, context: u32, buffered: usize) -> Progress {
        if self.streams.get(&context).is_some_and(|stream| stream.is_admin_call) {
            return self.send_admin_call(host, context, buffered);
        }
        if buffered > self.config.body_bytes_max {
            return self.admit_unread_body(host, context, UnreadReason::TooLarge, buffered as u64);
        }
        let body = host.request_body(self.config.body_bytes_max);
        let bytes = content_length(host).unwrap_or(0).max(buffered.max(body.len()) as u64);
        if bytes == 0 {
            return self.send_admit(host, context, &BodySummary::default());
        }
        let summary = request_body::summarize(&body);
        if !summary.is_object {
            return self.admit_unread_body(host, context, UnreadReason::NotJson, bytes);
        }
        self.request_usage(host, context, &body, &summary);
        self.send_admit(host, context, &summary)
    }

    /// Sends Admit for a request whose body could not be read, or refuses the request. `bytes` is the reported size of
    /// the prompt.
    pub(super) fn admit_unread_body(
        &mut self,
        host: &dyn Host,
        context: u32,
        reason: UnreadReason,
        bytes: u64,
    ) -> Progress {
        host.count(Counter::BodyUnread, 1);
        let (status, kind, message) = match reason {
            UnreadReason::TooLarge => {
                host.count(Counter::BodyTooLarge, 1);
                (413, "body_too_large", "The request body is too large for the gateway to read.")
            }
            UnreadReason::TimedOut => {
                host.count(Counter::BodyTimeouts, 1);
                (408, "body_timeout", "The request body did not arrive in time.")
            }
            UnreadReason::NotJson => {
                (415, "body_not_json", "The request body must be an uncompressed JSON object.")
            }
        };
        // A request without a pool, for example on a route that redirects, reaches no upstream.
        let has_pool = self.streams.get(&context).is_some_and(|stream| stream.pool.is_some());
        if has_pool && self.config.on_unread_body == OnUnreadBody::Refuse {
            self.set_report_header(context, "error");
            return self.refuse(host, context, status, kind, message);
        }
        let summary =
            BodySummary { model: UNKNOWN_MODEL.into(), prompt_bytes: bytes, ..BodySummary::default() };
        self.send_admit(host, context, &summary)
    }

    /// Edits an OpenAI request so that its stream reports usage, unless the client already requests usage.
    fn request_usage(&mut self, host: &dyn Host, context: u32, body: &[u8], summary: &BodySummary) {
        let Some(edit) = summary.usage_edit.as_ref().filter(|_| self.config.include_usage) else { return };
        let path = attributes::request_path(host);
        let is_completion = path.ends_with("/chat/completions") || path.ends_with("/completions");
        let Some(stream) = self.streams.get_mut(&context).filter(|s| is_completion && s.pool.is_some())
        else {
            return;
        };
        let Some(edited) = edit.apply(body) else { return };
        host.set_request_body(body.len(), &edited);
        if host.request_header("content-length").is_some() {
            host.set_request_header("content-length", &edited.len().to_string());
        }
        stream.response_body.strips_usage = true;
        host.count(Counter::UsageRequested, 1);
    }
}

pub(super) fn content_length(host: &dyn Host) -> Option<u64> {
    host.request_header("content-length").and_then(|length| length.parse().ok())
}

/// Returns whether the request is a POST. Only a POST has a body that names a model.
pub(super) fn is_post(host: &dyn Host) -> bool {
    host.request_header(":method").as_deref() == Some("POST")
}

/// Returns whether the request is a POST with the content type JSON.
pub(super) fn is_json(host: &dyn Host) -> bool {
    is_post(host) && content_type(host).starts_with("application/json")
}

/// Returns whether the body may be JSON. Servers accept JSON with any content type, so this excludes only compressed
/// bodies and types that cannot be JSON.
pub(super) fn may_be_json(host: &dyn Host) -> bool {
    const BINARY: [&str; 9] = [
        "multipart/",
        "image/",
        "audio/",
        "video/",
        "font/",
        "application/grpc",
        "application/zip",
        "application/gzip",
        "application/pdf",
    ];
    let kind = content_type(host);
    let encoding = host.request_header("content-encoding").unwrap_or_default();
    !BINARY.iter().any(|binary| kind.starts_with(binary))
        && matches!(encoding.trim().to_ascii_lowercase().as_str(), "" | "identity")
}

/// Returns whether the buffered part of the body starts as a JSON object; true while the part is too short to decide.
pub(super) fn begins_as_object(host: &dyn Host) -> bool {
    request_body::begins_as_object(&host.request_body(HEAD_BYTES)) != Some(false)
}

fn content_type(host: &dyn Host) -> String {
    host.request_header("content-type").unwrap_or_default().trim_start().to_ascii_lowercase()
}
