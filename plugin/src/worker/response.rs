//! The way of a response: headers added, usage read, and what was not asked for taken out.

use super::{Phase, Stream, Worker};
use crate::{facts, hide::Hider, host::Host, metrics::Counter, usage::Reader};

/// Most bytes taken from the gateway at once: the memory of a module grows to the largest, and never shrinks.
const TAKEN_BYTES_MAX: usize = 64 << 10;

/// What is read from the response of one request.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// The client had not asked for usage, and the plugin did.
    pub(super) hides: bool,
    reader: Option<Box<Reader>>,
    hider: Option<Hider>,
    ended: bool,
}

impl Worker {
    /// Headers of the response, the gateway's own answers included.
    pub fn on_response_headers(&mut self, host: &dyn Host, context: u32) {
        self.note_address(host, context);
        let Some(stream) = self.streams.get_mut(&context) else { return };
        if let Phase::Asking { token } = stream.phase {
            // Answered by the gateway while held, e.g. its own timeout: what the sidecar says comes too late.
            self.asked.remove(&token);
        }
        stream.phase = Phase::Decided;
        stream.responding = true;
        stream.by_gateway = !facts::is_via_upstream(host);
        for header in stream.response_headers.drain(..) {
            host.set_response_header(&header.name, &header.value);
        }
        if self.config.read_usage && stream.lease.is_some() && !stream.by_gateway {
            stream.reading.begin(host);
        }
    }

    /// More of the response's body.
    pub fn on_response_body(&mut self, host: &dyn Host, context: u32, bytes: usize, end_of_stream: bool) {
        let Some(stream) = self.streams.get_mut(&context) else { return };
        if bytes > 0 && !stream.by_gateway && stream.first_token_ms.is_none() {
            // Never 0, which would mean there was none.
            stream.first_token_ms = Some(host.now_ms().saturating_sub(stream.asked_ms).max(1));
        }
        stream.reading.body(host, bytes, end_of_stream);
    }

    /// Trailers of the response: its body is complete.
    pub fn on_response_trailers(&mut self, _host: &dyn Host, context: u32) {
        if let Some(stream) = self.streams.get_mut(&context) {
            stream.reading.end();
        }
    }
}

impl Reading {
    /// Looks whether the response is one that tells its usage.
    fn begin(&mut self, host: &dyn Host) {
        let status = host.response_header(":status").and_then(|status| status.parse::<u32>().ok());
        if !status.is_some_and(|status| (200..300).contains(&status)) {
            return;
        }
        let content_type = host.response_header("content-type").unwrap_or_default().to_ascii_lowercase();
        let content_type = content_type.split(';').next().unwrap_or_default().trim();
        let by_line =
            matches!(content_type, "application/x-ndjson" | "application/ndjson" | "application/jsonl");
        let events = content_type == "text/event-stream";
        let json = content_type == "application/json" || content_type.ends_with("+json");
        if !(by_line || events || json) {
            return;
        }
        let encoding = host.response_header("content-encoding").unwrap_or_default();
        if !matches!(encoding.trim(), "" | "identity") {
            host.count(Counter::UsageEncoded, 1);
            return;
        }
        self.reader = Some(Box::new(Reader::new(by_line)));
        if self.hides && events {
            self.hider = Some(Hider::default());
            host.remove_response_header("content-length");
        }
    }

    /// Reads a piece of the body as it passes.
    fn body(&mut self, host: &dyn Host, bytes: usize, end_of_stream: bool) {
        let Some(reader) = &mut self.reader else { return };
        let (mut at, mut passing, mut changed) = (0, Vec::new(), false);
        while at < bytes {
            let piece = host.response_body(at, TAKEN_BYTES_MAX.min(bytes - at));
            if piece.is_empty() {
                break;
            }
            at += piece.len();
            reader.feed(&piece);
            if let Some(hider) = &mut self.hider {
                let mut part = hider.feed(&piece);
                changed |= part != piece;
                passing.append(&mut part);
            }
        }
        if let Some(hider) = self.hider.as_mut().filter(|_| end_of_stream) {
            let mut rest = hider.end();
            changed |= !rest.is_empty();
            passing.append(&mut rest);
        }
        if changed {
            host.set_response_body(at, &passing);
        }
        if end_of_stream {
            self.end();
        }
    }

    fn end(&mut self) {
        if let Some(reader) = self.reader.as_mut().filter(|_| !self.ended) {
            reader.end();
            self.ended = true;
        }
    }
}

impl Stream {
    /// What the response told of its usage, counted.
    pub(super) fn usage(&self, host: &dyn Host) -> crate::usage::Usage {
        let Some(reader) = &self.reading.reader else { return crate::usage::Usage::default() };
        let usage = reader.usage();
        let counter = match usage.tokens {
            Some(_) if usage.is_final => Counter::UsageFinal,
            Some(_) => Counter::UsagePartial,
            None => Counter::UsageAbsent,
        };
        host.count(counter, 1);
        host.count(Counter::UsageFaults, reader.faults());
        if let Some(hider) = &self.reading.hider {
            host.count(Counter::UsageUnhidden, hider.too_long());
        }
        usage
    }
}
