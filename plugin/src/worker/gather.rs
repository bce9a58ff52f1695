//! What is read of a request's body before it is asked for, and what is said where it cannot be read.

use super::{Phase, Stream, Worker, request::Step};
use crate::{
    body::{self, BodyFacts},
    config::OnUnreadBody,
    facts,
    host::Host,
    metrics::Counter,
};

/// Model of a request whose body could not be read. Limits may be keyed by it like by any other: else a client would get
/// past all limits on models by a body that cannot be read.
pub(super) const UNKNOWN_MODEL: &str = "(unknown)";

/// Bytes of a body looked at for its beginning.
const HEAD_BYTES: usize = 256;

/// Why a body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    TooLarge,
    Late,
    NoJson,
}

impl Worker {
    /// Gives up every body that has been waited for too long.
    pub(super) fn give_up_bodies(&mut self, host: &dyn Host, now_ms: u64) {
        if !self.gathers() {
            return;
        }
        let late = |s: &Stream| matches!(s.phase, Phase::Gathering { since_ms } if now_ms >= since_ms + self.config.body_wait_ms);
        let contexts: Vec<u32> = self.streams.iter().filter(|(_, s)| late(s)).map(|(c, _)| *c).collect();
        for context in contexts {
            if host.enter(context) {
                let step = if self.streams.get(&context).is_some_and(|stream| stream.own) {
                    host.count(Counter::BodyGivenUp, 1);
                    self.own_body_late(host, context)
                } else {
                    let held = host.request_body(self.config.body_bytes_max).len() as u64;
                    let bytes = content_length(host).unwrap_or(0).max(held);
                    self.ask_unread(host, context, Unread::Late, bytes)
                };
                if step == Step::GoOn {
                    host.resume_request();
                }
            }
        }
    }

    /// Asks for a request whose body is complete, has become too long, or is seen to be no JSON.
    pub(super) fn ask_with_body(&mut self, host: &dyn Host, context: u32, buffered: usize) -> Step {
        if self.streams.get(&context).is_some_and(|stream| stream.own) {
            return self.ask_own(host, context, buffered);
        }
        if buffered > self.config.body_bytes_max {
            return self.ask_unread(host, context, Unread::TooLarge, buffered as u64);
        }
        let body = host.request_body(self.config.body_bytes_max);
        let bytes = content_length(host).unwrap_or(0).max(buffered.max(body.len()) as u64);
        if bytes == 0 {
            return self.ask(host, context, &BodyFacts::default());
        }
        let facts = body::read(&body);
        if !facts.understood {
            return self.ask_unread(host, context, Unread::NoJson, bytes);
        }
        self.include_usage(host, context, &body, &facts);
        self.ask(host, context, &facts)
    }

    /// Asks for a request whose body could not be read, or refuses it. `bytes` stand for its prompt.
    pub(super) fn ask_unread(&mut self, host: &dyn Host, context: u32, why: Unread, bytes: u64) -> Step {
        host.count(Counter::BodyUnread, 1);
        let (status, kind, message) = match why {
            Unread::TooLarge => {
                host.count(Counter::BodyTooLarge, 1);
                (413, "body_too_large", "The body is longer than can be read.")
            }
            Unread::Late => {
                host.count(Counter::BodyGivenUp, 1);
                (408, "body_late", "The body did not come in time.")
            }
            Unread::NoJson => (415, "body_not_json", "The body must be a JSON object, not compressed."),
        };
        // Without a pool it goes nowhere, e.g. to a route that redirects.
        let placed = self.streams.get(&context).is_some_and(|stream| stream.pool.is_some());
        if placed && self.config.on_unread_body == OnUnreadBody::Refuse {
            self.report(context, "error");
            return self.refuse(host, context, status, kind, message);
        }
        let facts = BodyFacts { model: UNKNOWN_MODEL.into(), prompt_bytes: bytes, ..BodyFacts::default() };
        self.ask(host, context, &facts)
    }

    /// Asks an OpenAI stream for its usage, where its client did not.
    fn include_usage(&mut self, host: &dyn Host, context: u32, body: &[u8], facts: &BodyFacts) {
        let Some(edit) = facts.include_usage.as_ref().filter(|_| self.config.include_usage) else { return };
        let path = facts::path(host);
        let asks = path.ends_with("/chat/completions") || path.ends_with("/completions");
        let Some(stream) = self.streams.get_mut(&context).filter(|s| asks && s.pool.is_some()) else {
            return;
        };
        let Some(changed) = edit.apply(body) else { return };
        host.set_request_body(body.len(), &changed);
        if host.request_header("content-length").is_some() {
            host.set_request_header("content-length", &changed.len().to_string());
        }
        stream.reading.hides = true;
        host.count(Counter::UsageAsked, 1);
    }
}

/// Bytes the body is said to have.
pub(super) fn content_length(host: &dyn Host) -> Option<u64> {
    host.request_header("content-length").and_then(|length| length.parse().ok())
}

/// Whether the request is one whose body names a model.
pub(super) fn is_post(host: &dyn Host) -> bool {
    host.request_header(":method").as_deref() == Some("POST")
}

/// Whether the request is a POST that says it is JSON.
pub(super) fn is_json(host: &dyn Host) -> bool {
    is_post(host) && content_type(host).starts_with("application/json")
}

/// Whether a body may be JSON: servers take it under any type, so only what surely is none need not be looked at. One that
/// is compressed cannot be.
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

/// Whether what has come of a body begins as a JSON object, or nothing of it has come.
pub(super) fn begins_as_object(host: &dyn Host) -> bool {
    body::begins_as_object(&host.request_body(HEAD_BYTES)) != Some(false)
}

fn content_type(host: &dyn Host) -> String {
    host.request_header("content-type").unwrap_or_default().trim_start().to_ascii_lowercase()
}
