//! Reads a request body that arrives in parts, in constant memory.

use super::{
    BodySummary,
    collector::Collector,
    prefix::{PrefixHasher, PrefixSettings},
};
use crate::{
    scan::{Event, Key, Scanner, Sink, TEXT_BYTES_MAX, Token},
    text::sanitize_bytes,
};

/// Some clients send a UTF-8 byte order mark before the JSON, and most servers skip it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A reader of one request body.
#[derive(Debug, Default)]
pub struct BodyReader {
    scanner: Scanner,
    content: Content,
    /// Number of bytes read.
    read: u64,
    /// Number of bytes of the byte order mark that the body starts with.
    mark_len: usize,
    /// The first byte after whitespace.
    first: Option<u8>,
    /// True if something other than whitespace follows the value.
    has_rest: bool,
}

/// What is read of a body.
#[derive(Debug, Default)]
struct Content {
    collector: Collector,
    prefixes: Option<Box<PrefixHasher>>,
}

impl Sink for Content {
    fn on_event(&mut self, path: &[Key], event: Event<'_>) {
        let before = self.collector.prompt_bytes;
        self.collector.on_event(path, event);
        if let Some(prefixes) = &mut self.prefixes {
            prefixes.on_event(path, &event, self.collector.prompt_bytes - before);
        }
    }

    fn on_token(&mut self, path: &[Key], token: Token<'_>) {
        if let Some(prefixes) = &mut self.prefixes {
            prefixes.on_token(path, token);
        }
    }
}

impl BodyReader {
    /// Creates a reader that hashes the prompt too, if there are settings.
    pub fn new(settings: Option<PrefixSettings>) -> BodyReader {
        let mut reader = BodyReader::default();
        reader.content.prefixes = settings.map(|settings| Box::new(PrefixHasher::new(settings)));
        if settings.is_some() {
            reader.scanner.report_tokens();
        }
        reader
    }

    /// Stops hashing the prompt.
    pub fn drop_prefixes(&mut self) {
        self.content.prefixes = None;
    }

    /// Reads the next part of the body.
    pub fn feed(&mut self, part: &[u8]) {
        let mut part = part;
        while let Some((byte, rest)) = part.split_first()
            && self.read == self.mark_len as u64
            && BYTE_ORDER_MARK.get(self.mark_len) == Some(byte)
        {
            (self.mark_len, self.read, part) = (self.mark_len + 1, self.read + 1, rest);
        }
        self.read += part.len() as u64;
        if self.first.is_none() {
            self.first = part.iter().copied().find(|byte| !is_blank(*byte));
        }
        if self.is_hopeless() {
            return;
        }
        let consumed = self.scanner.feed(part, &mut self.content);
        if self.scanner.is_done() {
            self.has_rest |= part[consumed..].iter().any(|byte| !byte.is_ascii_whitespace());
        }
    }

    /// Returns the number of bytes read.
    pub fn bytes(&self) -> u64 {
        self.read
    }

    /// Returns whether the body is not one JSON object, however it continues.
    pub fn is_hopeless(&self) -> bool {
        let is_other = self.first.is_some_and(|byte| byte != b'{');
        let has_partial_mark = self.first.is_some() && !matches!(self.mark_len, 0 | 3);
        is_other || has_partial_mark || self.has_rest || self.scanner.is_broken()
    }

    /// Summarizes what has been read so far.
    pub fn summary(&self) -> BodySummary {
        let collector = &self.content.collector;
        let is_object = self.scanner.is_done() && !self.is_hopeless();
        let edit = collector.stream_options.edit().filter(|_| is_object);
        // The requests of a batch have different prompts.
        let prefixes = self.content.prefixes.as_ref().filter(|_| is_object && !collector.is_batch());
        BodySummary {
            is_object,
            model: sanitize_bytes(collector.model(), TEXT_BYTES_MAX),
            model_id: sanitize_bytes(collector.model_id(), TEXT_BYTES_MAX),
            prompt_bytes: collector.prompt_bytes,
            max_output_tokens: collector.max_output_tokens(),
            choices: collector.choices(),
            is_background: collector.is_background,
            prefixes: prefixes.map(|prefixes| prefixes.prefixes()).unwrap_or_default(),
            usage_edit: edit.map(|edit| edit.shifted(self.mark_len)),
        }
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}
