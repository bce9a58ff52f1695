//! Reads a request body that arrives in parts, in constant memory.

use super::{BodySummary, collector::Collector};
use crate::{
    scan::{Scanner, TEXT_BYTES_MAX},
    text::sanitize_bytes,
};

/// Some clients send a UTF-8 byte order mark before the JSON, and most servers skip it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A reader of one request body.
#[derive(Debug, Default)]
pub struct BodyReader {
    scanner: Scanner,
    collector: Collector,
    /// Number of bytes read.
    read: u64,
    /// Number of bytes of the byte order mark that the body starts with.
    mark_len: usize,
    /// The first byte after whitespace.
    first: Option<u8>,
    /// True if something other than whitespace follows the value.
    has_rest: bool,
}

impl BodyReader {
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
        let consumed = self.scanner.feed(part, &mut self.collector);
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
        let collector = &self.collector;
        let is_object = self.scanner.is_done() && !self.is_hopeless();
        let edit = collector.stream_options.edit().filter(|_| is_object);
        BodySummary {
            is_object,
            model: sanitize_bytes(collector.model(), TEXT_BYTES_MAX),
            model_id: sanitize_bytes(collector.model_id(), TEXT_BYTES_MAX),
            prompt_bytes: collector.prompt_bytes,
            max_output_tokens: collector.max_output_tokens(),
            choices: collector.choices(),
            is_background: collector.is_background,
            usage_edit: edit.map(|edit| edit.shifted(self.mark_len)),
        }
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}
