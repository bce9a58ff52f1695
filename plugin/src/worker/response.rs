//! Handles responses: adds headers, reads usage, and strips usage that the client did not request.

use evenkeel_proto::v1::FirstToken;
use prost::Message as _;

use super::{Phase, Stream, Worker};
use crate::{
    attributes,
    host::{Host, PART_BYTES_MAX},
    metrics::Counter,
    usage::{Format, Usage, UsageReader},
    usage_stripper::UsageStripper,
};

/// State of the response body of one request.
#[derive(Debug, Default)]
pub(super) struct ResponseBody {
    /// True if the plugin requested usage that the client did not request.
    pub(super) strips_usage: bool,
    reader: Option<Box<UsageReader>>,
    stripper: Option<UsageStripper>,
    ended: bool,
    /// True if the response switched the connection to another protocol, such as WebSocket.
    pub(super) is_upgraded: bool,
    /// True if the body is compressed, or of a type that the plugin does not read.
    pub(super) is_unreadable: bool,
    /// True if the headers say that the body comes piece by piece.
    is_stream: bool,
}

/// Headers of Bedrock's InvokeModel with the token counts of a response that is not a stream.
const INPUT_TOKENS_HEADER: &str = "x-amzn-bedrock-input-token-count";
const OUTPUT_TOKENS_HEADER: &str = "x-amzn-bedrock-output-token-count";

/// Status of a response that accepts an upgrade of the connection.
const SWITCHING_PROTOCOLS: u32 = 101;

/// Returns what a content type says about the form of a body; `None` if such a body reports no usage. Servers send JSON
/// and events under many types, so every type that may contain text is read.
fn format(content_type: &str) -> Option<Format> {
    let content_type = content_type.split(';').next().unwrap_or_default().trim();
    let (class, name) = content_type.split_once('/').unwrap_or((content_type, ""));
    match (class, name) {
        ("text", "event-stream") => Some(Format::Events),
        ("application", "json") => Some(Format::Json),
        ("application", "x-ndjson" | "ndjson" | "jsonl" | "x-jsonlines" | "jsonlines" | "json-seq") => {
            Some(Format::Lines)
        }
        ("application", "pdf" | "zip" | "gzip" | "wasm") | ("text", "html" | "css" | "javascript") => None,
        ("application", _) if name.starts_with("grpc") => None,
        ("audio" | "font" | "image" | "model" | "multipart" | "video", _) => None,
        _ => Some(Format::Unknown),
    }
}

impl Worker {
    /// Handles the headers of a response, including a response that the gateway created itself.
    pub fn on_response_headers(&mut self, host: &dyn Host, context: u32) {
        let has_upstream = self.update_location(host, context);
        // The gateway may respond while the request is paused, for example because of a timeout.
        self.abandon_admission(host, context);
        let Some(stream) = self.streams.get_mut(&context) else { return };
        stream.phase = Phase::Decided;
        stream.response_started = true;
        stream.status = host.response_header(":status").and_then(|status| status.parse().ok());
        stream.is_via_upstream = attributes::is_via_upstream(host, stream.status, has_upstream);
        for header in stream.response_headers.drain(..) {
            host.set_response_header(&header.name, &header.value);
        }
        if self.config.read_usage && stream.lease.is_some() && stream.is_via_upstream != Some(false) {
            stream.response_body.begin(host, stream.status);
        }
    }

    /// Handles a chunk of a response body.
    pub fn on_response_body(&mut self, host: &dyn Host, context: u32, bytes: usize, end_of_stream: bool) {
        let Some(stream) = self.streams.get_mut(&context) else { return };
        let begins = bytes > 0 && stream.is_via_upstream != Some(false) && stream.first_token_ms.is_none();
        if begins {
            // The value is at least 1, because 0 means that the response had no body.
            stream.first_token_ms = Some(host.now_ms().saturating_sub(stream.admit_sent_ms).max(1));
        }
        stream.complete |= end_of_stream;
        stream.response_body.feed(host, bytes, end_of_stream);
        // A response that ends at once is settled at once.
        if begins && !end_of_stream {
            self.report_first_token(host, context);
        }
    }

    /// Reports the first token of a request, if the sidecar counts the request's tokens until then. The report leaves with
    /// the next message, or with the next tick.
    pub(super) fn report_first_token(&mut self, host: &dyn Host, context: u32) {
        let Some((lease, after_ms)) =
            self.streams.get(&context).and_then(|stream| Some((stream.lease?, stream.first_token_ms?)))
        else {
            return;
        };
        let Some(pool) = self.lease_table.read(lease) else { return };
        let first_token = FirstToken { lease, after_ms, pool: Some(pool.to_proto()) };
        self.outbox.first_token(first_token.encode_to_vec());
        self.hurry(host, host.now_ms());
    }

    /// Handles the trailers of a response, which complete its body.
    pub fn on_response_trailers(&mut self, _host: &dyn Host, context: u32) {
        if let Some(stream) = self.streams.get_mut(&context) {
            stream.complete = true;
            stream.response_body.end();
        }
    }
}

impl ResponseBody {
    /// Starts reading if the response may report usage.
    fn begin(&mut self, host: &dyn Host, status: Option<u32>) {
        self.is_upgraded = status == Some(SWITCHING_PROTOCOLS);
        if !self.is_upgraded && !status.is_some_and(|status| (200..300).contains(&status)) {
            return;
        }
        let header = |name| host.response_header(name).unwrap_or_default().to_ascii_lowercase();
        let format = if self.is_upgraded {
            (header("upgrade").trim() == "websocket").then_some(Format::WebSocket)
        } else {
            format(&header("content-type"))
        };
        self.is_stream = matches!(format, Some(Format::Events | Format::Lines));
        let is_compressed = !matches!(header("content-encoding").trim(), "" | "identity");
        if is_compressed && format.is_some() {
            host.count(Counter::UsageCompressed, 1);
        }
        let Some(format) = format.filter(|_| !is_compressed) else {
            self.is_unreadable = !self.is_upgraded;
            return;
        };
        let mut reader = Box::new(UsageReader::new(format));
        let count = |name| host.response_header(name)?.parse().ok();
        if let Some(output) = count(OUTPUT_TOKENS_HEADER) {
            reader.set_header_counts(count(INPUT_TOKENS_HEADER).unwrap_or(0), output);
        }
        self.reader = Some(reader);
        if self.strips_usage && matches!(format, Format::Events | Format::Unknown) {
            self.stripper = Some(UsageStripper::default());
            host.remove_response_header("content-length");
        }
    }

    /// Returns whether the body comes piece by piece, as the server generates it.
    pub(super) fn is_streamed(&self) -> bool {
        self.is_stream || self.reader.as_ref().is_some_and(|reader| reader.is_stream())
    }

    /// Reads a chunk of the body before the gateway forwards the chunk.
    fn feed(&mut self, host: &dyn Host, bytes: usize, end_of_stream: bool) {
        let Some(reader) = &mut self.reader else { return };
        if !reader.is_reading() && self.stripper.is_none() {
            return;
        }
        let (mut at, mut forwarded, mut changed) = (0, Vec::new(), false);
        while at < bytes {
            let chunk = host.response_body(at, PART_BYTES_MAX.min(bytes - at));
            if chunk.is_empty() {
                break;
            }
            at += chunk.len();
            reader.feed(&chunk);
            if let Some(stripper) = &mut self.stripper {
                let mut stripped = stripper.feed(&chunk);
                changed |= stripped != chunk;
                forwarded.append(&mut stripped);
            }
        }
        if let Some(stripper) = self.stripper.as_mut().filter(|_| end_of_stream) {
            let mut rest = stripper.end();
            changed |= !rest.is_empty();
            forwarded.append(&mut rest);
        }
        if changed {
            host.set_response_body(at, &forwarded);
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
    /// Returns the usage that the response reported, and counts it in the metrics.
    pub(super) fn usage(&self, host: &dyn Host) -> Usage {
        let Some(reader) = &self.response_body.reader else { return Usage::default() };
        let usage = reader.usage();
        let counter = match usage.tokens {
            Some(_) if usage.is_final => Counter::UsageFinal,
            Some(_) => Counter::UsagePartial,
            None if usage.total_tokens > 0 => Counter::UsagePartial,
            None => Counter::UsageAbsent,
        };
        host.count(counter, 1);
        host.count(Counter::UsageFaults, reader.faults());
        if let Some(stripper) = &self.response_body.stripper {
            host.count(Counter::UsageNotStripped, stripper.oversized_events());
        }
        usage
    }
}
