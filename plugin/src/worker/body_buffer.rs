//! Holds a request until its body is read, or until it must ask without the rest, and handles bodies that cannot be
//! read.

use super::{Flow, Phase, Progress, Stream, Worker};
use crate::{
    attributes,
    config::OnUnreadBody,
    host::Host,
    metrics::Counter,
    request_body::{BodySummary, Edit, Prefixes},
};

/// Model name for a request that names no model, or whose body could not be read. Limits can use this name as a key like
/// any other model. Otherwise a client could bypass every limit on models by naming none.
pub(super) const UNKNOWN_MODEL: &str = "(unknown)";

/// The part of `body_bytes_max` for which the plugin waits if the body may be longer. The rest of the gateway's buffer
/// must hold what arrives until Admit is answered.
const WAIT_PART: u64 = 2;

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
                    self.read_held(host, context);
                    self.admit_unread_body(host, context, UnreadReason::TimedOut)
                };
                if progress == Progress::Proceed {
                    host.resume_request();
                }
            }
        }
        late.len()
    }

    fn read_held(&mut self, host: &dyn Host, context: u32) {
        let stream = self.streams.get_mut(&context);
        if let Some(reader) = stream.and_then(|stream| stream.request_reader.as_mut()) {
            reader.read_held(host);
        }
    }

    /// Handles a part of a body that the gateway holds.
    pub(super) fn on_held_body(&mut self, host: &dyn Host, context: u32, end_of_stream: bool) -> Progress {
        let Some(stream) = self.streams.get_mut(&context) else { return Progress::Proceed };
        let Some(reader) = &mut stream.request_reader else { return Progress::Waiting };
        reader.read_held(host);
        if end_of_stream {
            return self.admit_with_body(host, context);
        }
        if reader.is_hopeless() {
            return self.admit_unread_body(host, context, UnreadReason::NotJson);
        }
        let max = self.config.body_bytes_max as u64;
        // A body that is refused unless it is read needs no room for more.
        let may_be_longer = self.config.on_unread_body == OnUnreadBody::Admit
            && content_length(host).is_none_or(|length| length > max);
        if reader.bytes() > if may_be_longer { max / WAIT_PART } else { max } {
            return self.admit_unread_body(host, context, UnreadReason::TooLarge);
        }
        Progress::Waiting
    }

    /// Sends Admit for a request whose body is complete, or handles a body that is not JSON.
    pub(super) fn admit_with_body(&mut self, host: &dyn Host, context: u32) -> Progress {
        let Some(stream) = self.streams.get(&context) else { return Progress::Proceed };
        let Some(reader) = &stream.request_reader else { return Progress::Proceed };
        if body_bytes(host, stream) == 0 {
            return self.send_whole_admit(host, context, &BodySummary::default());
        }
        let (summary, bytes) = (reader.summary(), reader.bytes() as usize);
        if !summary.is_object {
            return self.admit_unread_body(host, context, UnreadReason::NotJson);
        }
        if let Some(edit) = &summary.usage_edit {
            self.request_usage(host, context, bytes, edit);
        }
        self.send_whole_admit(host, context, &summary)
    }

    /// Sends Admit for a request of whose body nothing more is read.
    fn send_whole_admit(&mut self, host: &dyn Host, context: u32, body: &BodySummary) -> Progress {
        if let Some(stream) = self.streams.get_mut(&context) {
            stream.request_reader = None;
        }
        self.send_admit(host, context, body)
    }

    /// Sends Admit for a request whose body could not be read, or not to its end, or refuses the request.
    pub(super) fn admit_unread_body(
        &mut self,
        host: &dyn Host,
        context: u32,
        reason: UnreadReason,
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
        let Some(stream) = self.streams.get_mut(&context) else { return Progress::Proceed };
        // A request without a pool, for example on a route that redirects, reaches no upstream.
        if stream.pool.is_some() && self.config.on_unread_body == OnUnreadBody::Refuse {
            stream.request_reader = None;
            self.set_report_header(context, "error");
            return self.refuse(host, context, status, kind, message);
        }
        let bytes = body_bytes(host, stream);
        let Some(reader) = stream.request_reader.as_mut().filter(|reader| !reader.is_hopeless()) else {
            // The bytes of a binary body, such as audio, are not a prompt.
            let prompt_bytes = if may_be_json(host) || is_json(host) { bytes } else { 0 };
            return self.send_whole_admit(
                host,
                context,
                &BodySummary { prompt_bytes, ..BodySummary::default() },
            );
        };
        // What follows may make another request of it.
        let mut body = BodySummary { prefixes: Prefixes::default(), ..reader.summary() };
        if reason == UnreadReason::NotJson {
            body = BodySummary { prompt_bytes: bytes, ..BodySummary::default() };
            return self.send_whole_admit(host, context, &body);
        }
        // What is not read yet may be prompt. The settlement corrects it.
        body.prompt_bytes += bytes.saturating_sub(reader.bytes());
        reader.admit_early(stream.target.request_body(&self.config, &body).model);
        self.send_admit(host, context, &body)
    }

    /// Handles a part of a body whose Admit has been sent. `at` is the offset of the part in the gateway's buffer.
    pub(super) fn on_late_body(
        &mut self,
        host: &dyn Host,
        context: u32,
        is_held: bool,
        end_of_stream: bool,
    ) -> Flow {
        let proceed = if is_held { Flow::Pause } else { Flow::Continue };
        let Some(stream) = self.streams.get_mut(&context) else { return proceed };
        let Some(reader) = &mut stream.request_reader else { return proceed };
        if is_held {
            reader.read_held(host);
        } else {
            reader.read(host, 0);
        }
        if end_of_stream && stream.is_body_changed(&self.config) {
            return self.refuse_changed_body(host, context).flow();
        }
        proceed
    }

    /// Refuses a request whose body names another model after the plugin has asked for admission. Otherwise a client
    /// could name a model without limits first, because servers use the last one. The upstream has not received the end
    /// of the body.
    pub(super) fn refuse_changed_body(&mut self, host: &dyn Host, context: u32) -> Progress {
        host.count(Counter::BodyChanged, 1);
        self.abandon_admission(host, context);
        let message = "The request body must be one JSON object that names one model.";
        self.refuse(host, context, 400, "body_ambiguous", message)
    }

    /// Edits an OpenAI request so that its stream reports usage.
    fn request_usage(&mut self, host: &dyn Host, context: u32, bytes: usize, edit: &Edit) {
        if !self.config.include_usage {
            return;
        }
        let path = attributes::request_path(host);
        let is_completion = path.ends_with("/chat/completions") || path.ends_with("/completions");
        let Some(stream) = self.streams.get_mut(&context).filter(|s| is_completion && s.pool.is_some())
        else {
            return;
        };
        let body = host.request_body(0, bytes);
        let Some(edited) = edit.apply(&body) else { return };
        host.set_request_body(body.len(), &edited);
        if host.request_header("content-length").is_some() {
            host.set_request_header("content-length", &edited.len().to_string());
        }
        stream.response_body.strips_usage = true;
        host.count(Counter::UsageRequested, 1);
    }
}

/// Returns the length of a stream's body, as far as it is known.
fn body_bytes(host: &dyn Host, stream: &Stream) -> u64 {
    let read = stream.request_reader.as_ref().map_or(0, |reader| reader.bytes());
    content_length(host).unwrap_or(0).max(read)
}

pub(super) fn content_length(host: &dyn Host) -> Option<u64> {
    host.request_header("content-length").and_then(|length| length.parse().ok())
}

/// Returns whether the request has the content type JSON.
pub(super) fn is_json(host: &dyn Host) -> bool {
    content_type(host).starts_with("application/json")
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

fn content_type(host: &dyn Host) -> String {
    host.request_header("content-type").unwrap_or_default().trim_start().to_ascii_lowercase()
}
