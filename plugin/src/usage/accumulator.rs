//! Accumulates the usage that the JSON values of a response report.

use evenkeel_proto::v1::Tokens;

use super::{
    Usage,
    document::{self, Document, DocumentCounts, UNKNOWN_BYTES_MAX},
    members::{self, TextKind},
    stream_length::StreamLength,
    token_counts::{SubCalls, TokenCounts, TokenKind, sum_of},
};
use crate::{
    scan::{Event, Key, Sink, TEXT_BYTES_MAX, Word},
    text::sanitize_bytes,
};

/// Place of a JSON value in the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The value is the whole body so far.
    Whole,
    /// The value is an event or line of a stream.
    Event,
    /// The value is an item of the array that is the body: an event of a stream, or one of several results.
    Item,
    /// The value is a message of a connection that carries many responses.
    Message,
}

/// Accumulates the usage of a response.
#[derive(Debug, Default)]
pub(super) struct UsageAccumulator {
    model: String,
    /// The latest snapshot of the counts, and of the counts that apply if there are no others.
    counts: TokenCounts,
    fallback: TokenCounts,
    sub_calls: SubCalls,
    /// Tokens of the results before the current one, if the body contains several.
    results: Option<Tokens>,
    /// Bytes of generated text, and how many of them are in results before the current one.
    text: u64,
    text_of_results: u64,
    /// Bytes of the longest text that repeats the parts of the current result.
    repeated: u64,
    document: Document,
    document_counts: DocumentCounts,
    /// Lengths of texts that may grow from value to value.
    growing: StreamLength,
    growing_reasoning: StreamLength,
    /// What the current text is; `None` if it is empty so far.
    text_kind: Option<TextKind>,
    /// True if the response announced its end, and no text followed.
    is_complete: bool,
    /// True if the only reason for `is_complete` is that the value is the whole body so far.
    is_whole: bool,
    /// True if text followed the last count of the output.
    is_stale: bool,
    /// True if one of several results has text, but no count of its output.
    lacks_counts: bool,
    is_known: bool,
    /// Bytes of text in members of no known API, in values of no known form.
    unknown_bytes: u64,
    /// True if the response contains an image or other data that was generated, or text that may have been.
    has_other_output: bool,
    is_pending: bool,
    has_error: bool,
    is_failure: bool,
    is_connection: bool,
    /// True if at least one value was read; one of an unknown form.
    has_value: bool,
    has_unknown_value: bool,
    /// True if data that is not JSON was skipped.
    skipped: bool,
    ended: bool,
    faults: u64,
}

impl UsageAccumulator {
    /// Ends a value, and adds its contents to the usage.
    pub(super) fn end_document(&mut self, place: Place) {
        self.has_value = true;
        self.text_kind = None;
        let document = std::mem::take(&mut self.document);
        if document.is_repetition {
            self.growing.discard_event();
        }
        let has_text = document.text_bytes() > 0
            || document.repeated_bytes() > 0
            || self.growing.has_text()
            || self.growing_reasoning.has_text();
        self.growing.end_event();
        self.growing_reasoning.end_event();
        self.text += document.text_bytes();
        self.repeated = self.repeated.max(document.repeated_bytes());
        let is_result = match place {
            Place::Whole | Place::Event => false,
            Place::Item => document.is_result(),
            Place::Message => self.document_counts.is_reported,
        };
        if is_result {
            self.end_result();
        }
        let is_known = document.is_known || has_text;
        self.is_known |= is_known;
        let is_error = document.is_error();
        self.has_unknown_value |= !is_known && !is_error && !self.document_counts.is_reported;
        if !is_known {
            self.unknown_bytes = self.unknown_bytes.saturating_add(document.unknown_bytes());
        }
        let has_unknown_text = document.has_unknown_text() || self.unknown_bytes > UNKNOWN_BYTES_MAX;
        self.has_other_output |= !is_error && (document.is_opaque() || has_unknown_text);
        self.is_pending = document.is_pending();
        self.is_failure |= document.is_failure;
        // A connection goes on after an error.
        self.has_error |= is_error && place != Place::Message;
        let has_counts = self.document_counts.is_reported;
        // Counts from the headers are those of the whole body.
        let reports_output =
            has_counts && self.take_counts(is_result) || place == Place::Whole && self.fallback.has_output();
        if reports_output {
            self.is_stale = false;
        } else if has_text {
            self.is_stale = true;
            self.lacks_counts |= is_result;
        }
        let is_end = match place {
            Place::Message => reports_output,
            // The array may contain more results.
            Place::Item if is_result => false,
            _ => document.is_end || document.concludes && has_counts,
        };
        self.is_complete = is_end || (self.is_complete && !has_text) || place == Place::Whole;
        self.is_whole = place == Place::Whole && !is_end;
    }

    /// Ends one of several results.
    fn end_result(&mut self) {
        let parts = self.text - self.text_of_results + self.growing.bytes();
        self.text = self.text_of_results + parts.max(self.repeated);
        self.text_of_results = self.text;
        self.repeated = 0;
        self.growing = StreamLength::default();
    }

    /// Takes the counts of a value. Returns whether they include the output.
    fn take_counts(&mut self, is_result: bool) -> bool {
        let counts = std::mem::take(&mut self.document_counts);
        let reports_output = counts.response.reports_output_after(self.counts)
            || !self.counts.has_output() && counts.fallback.reports_output_after(self.fallback)
            || counts.sub_calls.is_reported();
        if is_result {
            if let Some(tokens) = counts.tokens() {
                self.results = Some(sum_of(&self.results.unwrap_or_default(), &tokens));
            }
            return reports_output;
        }
        self.counts = self.counts.replaced_by(counts.response);
        self.fallback = self.fallback.replaced_by(counts.fallback);
        if counts.sub_calls.is_reported() {
            self.sub_calls = counts.sub_calls;
        }
        reports_output
    }

    /// Ends a value that is not valid JSON. Discards the value's token counts, but not its number of text bytes.
    pub(super) fn broken_document(&mut self) {
        self.document.discard_marks();
        self.document_counts = DocumentCounts::default();
        self.end_document(Place::Event);
        self.faults += 1;
    }

    /// Takes counts from the headers of the response, which apply if the body reports no others.
    pub(super) fn set_header_counts(&mut self, input: u64, output: u64) {
        self.fallback.set(TokenKind::Input, input);
        self.fallback.set(TokenKind::Output, output);
    }

    /// Records that another value follows the one that seemed to be the whole body.
    pub(super) fn continue_body(&mut self) {
        self.is_complete &= !self.is_whole;
    }

    /// Records that the body carries the messages of an upgraded connection.
    pub(super) fn set_connection(&mut self) {
        self.is_connection = true;
    }

    /// Records that data was skipped because it is not JSON.
    pub(super) fn skip(&mut self) {
        self.skipped = true;
    }

    /// Records that the stream reports an error outside its JSON values. The current value describes it.
    pub(super) fn fail(&mut self) {
        self.has_error = true;
        self.document.has_error = true;
    }

    /// Records that the body ended between two values.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// Records that the response announced its end.
    pub(super) fn mark_complete(&mut self) {
        self.is_complete = true;
    }

    pub(super) fn faults(&self) -> u64 {
        self.faults
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.model.capacity()
    }

    pub(super) fn usage(&self) -> Usage {
        // Ignore the total of an incomplete value, because a total may precede the counts that it sums.
        let counts = self.counts.or(self.document_counts.response.without_total()).or(self.fallback);
        let growing = self.growing.bytes() + self.growing_reasoning.bytes();
        let parts = self.text - self.text_of_results + self.document.text_bytes() + growing;
        let output_bytes =
            self.text_of_results + parts.max(self.repeated).max(self.document.repeated_bytes());
        let has_calls = self.results.is_some() || self.sub_calls.is_reported();
        // The total alone is the input if nothing was generated. Otherwise, the sidecar divides it.
        let lone_total = counts.lone_total().filter(|_| !has_calls && (output_bytes > 0 || !self.is_known));
        let tokens = if lone_total.is_some() { None } else { counts.tokens() };
        let tokens = self.sub_calls.complete(tokens);
        let tokens = match (self.results, tokens) {
            (Some(results), Some(tokens)) => Some(sum_of(&results, &tokens)),
            (results, tokens) => results.or(tokens),
        };
        // The usage is not final if the response did not report the tokens of its prompt (Ollama omits a cached prompt)
        // or of its text. The sidecar then estimates the missing counts.
        let generated_nothing = self.is_known && output_bytes == 0 && !self.has_other_output;
        let has_output = counts.has_output() || counts.has_total() || generated_nothing;
        let has_all = has_calls || counts.has_input() && has_output;
        let has_only_other_output = self.has_other_output && output_bytes == 0;
        // Zeros say nothing about a body of an unknown form, and no output is none that was seen.
        let is_plausible = |tokens: Tokens| {
            tokens.output > 0 || !has_only_other_output && (self.is_known || tokens.input > 0)
        };
        let is_reported = has_all && tokens.is_some_and(is_plausible);
        let is_stale = self.is_stale || self.lacks_counts;
        let is_readable = self.has_value && !self.skipped && self.faults == 0 && self.is_known;
        let is_finished = self.is_connection || self.ended && !self.is_pending;
        Usage {
            model: self.model.clone(),
            is_final: self.is_complete && !self.has_error && !is_stale && is_reported,
            tokens,
            total_tokens: lone_total.unwrap_or(0),
            is_error: self.has_error || self.is_failure,
            output_bytes,
            body_read: is_readable && is_finished && !has_only_other_output,
            form_unknown: has_only_other_output
                || (self.has_unknown_value || self.skipped) && !self.is_known && output_bytes == 0,
        }
    }

    fn on_part(&mut self, path: &[Key], part: &[u8]) {
        let kind = match self.text_kind {
            Some(kind) => kind,
            None => *self.text_kind.insert(members::text(path)),
        };
        match kind {
            TextKind::Growing if self.document.is_repetition => {}
            TextKind::Growing => self.growing.add(part),
            TextKind::GrowingReasoning => self.growing_reasoning.add(part),
            kind => self.document.add_text(kind, part.len() as u64),
        }
    }

    fn on_text(&mut self, path: &[Key], text: &[u8]) {
        use Key::*;
        let is_empty = self.text_kind.is_none();
        let kind = self.text_kind.take().unwrap_or_else(|| members::text(path));
        self.document.is_known |= kind.is_recognized();
        match path {
            [Model | ModelId | ModelName | ModelVersion]
            | [Message | Response, Model]
            | [Response, ModelVersion]
            | [Usage, Models, Item, ModelId]
                if self.model.is_empty() =>
            {
                self.model = sanitize_bytes(text, TEXT_BYTES_MAX);
            }
            _ if !kind.is_recognized() => {
                self.document.on_text(&mut self.document_counts, path, text, is_empty);
            }
            _ => {}
        }
    }
}

impl Sink for UsageAccumulator {
    fn on_event(&mut self, path: &[Key], event: Event<'_>) {
        match event {
            Event::Part(part) => self.on_part(path, part),
            Event::Text(head) => self.on_text(path, head),
            Event::Number(Some(number)) => self.document.on_number(&mut self.document_counts, path, number),
            Event::Number(None) => {}
            Event::Open { array, .. } => self.document.on_open(path, array),
            Event::Close { .. } => document::on_close(&mut self.document_counts, path),
            Event::Word { word: Word::Null, .. } => {
                let kind = members::text(path);
                self.document.is_known |= kind.is_recognized();
            }
            Event::Word { word, .. } => self.document.on_word(path, word),
        }
    }
}
