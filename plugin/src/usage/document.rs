//! What one JSON value of a response contains.

use evenkeel_proto::v1::Tokens;

use super::{
    members::{self, Scope, TextKind},
    token_counts::{SubCalls, TokenCounts, TokenKind},
};
use crate::scan::{Key, Word};

/// Values of `object` of answers that contain no generated text.
const OBJECTS_WITHOUT_OUTPUT: [&[u8]; 14] = [
    b"list",
    b"model",
    b"embedding",
    b"file",
    b"upload",
    b"batch",
    b"vector_store",
    b"fine_tuning.job",
    b"assistant",
    b"thread",
    b"conversation",
    b"container",
    b"eval",
    b"response.input_tokens",
];

/// Token counts that one JSON value reports.
#[derive(Clone, Debug, Default)]
pub(super) struct DocumentCounts {
    /// True if the value reports at least one count.
    pub(super) is_reported: bool,
    pub(super) response: TokenCounts,
    /// Counts that apply if the response reports no others.
    pub(super) fallback: TokenCounts,
    pub(super) sub_calls: SubCalls,
    /// The call whose counts are being read, and whether the response's counts exclude it.
    sub_call: TokenCounts,
    is_beside: bool,
}

impl DocumentCounts {
    fn on_number(&mut self, scope: Scope, kind: TokenKind, number: u64) {
        self.is_reported = true;
        match scope {
            Scope::Response => self.response.set(kind, number),
            Scope::Result => self.response.add(kind, number),
            Scope::Fallback => self.fallback.set(kind, number),
            Scope::SubCall => self.sub_call.set(kind, number),
        }
    }

    fn end_sub_call(&mut self) {
        let call = std::mem::take(&mut self.sub_call);
        self.sub_calls.add(call, !std::mem::take(&mut self.is_beside));
    }

    /// Returns the tokens that this value alone reports.
    pub(super) fn tokens(&self) -> Option<Tokens> {
        self.sub_calls.complete(self.response.or(self.fallback).tokens())
    }
}

/// Most bytes of text in members of no known API that an answer without generated text may have. Ids and labels are
/// shorter.
pub(super) const UNKNOWN_BYTES_MAX: u64 = 128;

/// Contents of one JSON value, except its token counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Document {
    /// Bytes of text of each kind, except texts that grow from value to value.
    bytes: [u64; TextKind::COUNT],
    /// True if a `delta` is audio.
    is_audio: bool,
    /// True if the value is known to contain an answer: generated text, if only an empty one, or something else.
    pub(super) is_known: bool,
    /// True if the value contains a finish reason, or announces the end of the response.
    pub(super) is_end: bool,
    /// True if the value concludes a part of the response. It concludes the whole response if it reports counts.
    pub(super) concludes: bool,
    /// True if the value repeats text that earlier values carried in parts.
    pub(super) is_repetition: bool,
    /// True if the value reports an error of the whole response.
    pub(super) has_error: bool,
    /// True if the value has an error code; a message.
    has_code: bool,
    has_message: bool,
    /// True if the response's generation failed, as the provider reports at its regular end.
    pub(super) is_failure: bool,
    /// True if the value's kind of object contains no generated text.
    has_no_output: bool,
    /// True if the value's status says that work on it is not complete.
    has_pending_status: bool,
    /// True if the value is a result of SGLang.
    has_meta_info: bool,
}

impl Document {
    /// Returns the bytes of generated text, without texts that grow from value to value.
    pub(super) fn text_bytes(&self) -> u64 {
        let delta = if self.is_audio { 0 } else { self.of(TextKind::Delta) };
        let reasoning = [TextKind::Reasoning, TextKind::ReasoningContent, TextKind::ReasoningDetails];
        self.of(TextKind::Generated) + delta + self.most_of(reasoning)
    }

    /// Returns the bytes of text that may repeat the parts of a stream.
    pub(super) fn repeated_bytes(&self) -> u64 {
        let reasoning = [
            TextKind::RepeatedReasoning,
            TextKind::RepeatedReasoningContent,
            TextKind::RepeatedReasoningDetails,
        ];
        self.of(TextKind::Repeated) + self.most_of(reasoning)
    }

    /// Returns whether the value contains an image or other data that was generated.
    pub(super) fn is_opaque(&self) -> bool {
        self.of(TextKind::Opaque) > 0 || self.is_audio && self.of(TextKind::Delta) > 0
    }

    /// Returns whether the value may be one of several results.
    pub(super) fn is_result(&self) -> bool {
        self.has_meta_info || self.repeated_bytes() > 0
    }

    fn of(&self, kind: TextKind) -> u64 {
        self.bytes[kind as usize]
    }

    fn most_of(&self, kinds: [TextKind; 3]) -> u64 {
        kinds.map(|kind| self.of(kind)).into_iter().max().unwrap_or(0)
    }

    /// Returns whether the value may contain generated text that the reader does not recognize.
    pub(super) fn has_unknown_text(&self) -> bool {
        self.unknown_bytes() > UNKNOWN_BYTES_MAX
    }

    /// Returns the bytes of text in members of no known API.
    pub(super) fn unknown_bytes(&self) -> u64 {
        if self.has_no_output { 0 } else { self.of(TextKind::Unknown) }
    }

    /// Returns whether the value is a response that is not generated yet.
    pub(super) fn is_pending(&self) -> bool {
        self.has_pending_status && !self.has_no_output
    }

    /// Returns whether the value reports an error.
    pub(super) fn is_error(&self) -> bool {
        // The code of an envelope may be that of a success.
        self.has_error || self.has_code && self.has_message && !self.is_known && !self.has_unknown_text()
    }

    /// Discards the marks of a value that is not valid JSON.
    pub(super) fn discard_marks(&mut self) {
        let Document { bytes, is_audio, .. } = *self;
        *self = Document { bytes, is_audio, ..Document::default() };
    }

    /// Counts the bytes of a part of a text.
    pub(super) fn add_text(&mut self, kind: TextKind, bytes: u64) {
        self.bytes[kind as usize] += bytes;
    }

    /// Handles the end of a text that is not generated.
    pub(super) fn on_text(&mut self, counts: &mut DocumentCounts, path: &[Key], text: &[u8], is_empty: bool) {
        use Key::*;
        match path {
            [Type] => self.on_type(text),
            [Object] => {
                let is_deletion = text.ends_with(b".deleted");
                self.has_no_output = OBJECTS_WITHOUT_OUTPUT.contains(&text) || is_deletion;
                self.is_known |= self.has_no_output;
                self.has_error |= text == b"error";
            }
            [Status] => {
                self.has_error |= matches!(text, b"error" | b"failed");
                self.has_pending_status = matches!(
                    text,
                    b"queued" | b"in_progress" | b"starting" | b"processing" | b"pending" | b"running"
                );
            }
            [.., Iterations, Item, Type] => counts.is_beside = text != b"message",
            // Bedrock's first event.
            [Role] => self.is_known = true,
            [Data, Item, Type] => self.is_known |= text == b"model",
            [Data, Item, Embedding] => self.is_known = true,
            [Error] => self.has_error |= !is_empty,
            [Error, ..] | [Errors, Item, ..] | [Choices, Item, Error, ..] => self.has_error |= !is_empty,
            [Message] => self.has_message = true,
            // Envelopes say so of a success.
            [Code] => {
                let successes: [&[u8]; 5] = [b"", b"0", b"200", b"ok", b"success"];
                self.has_code |= !successes.iter().any(|code| text.eq_ignore_ascii_case(code));
            }
            [.., FinishReason] if !is_argument(path) => match text {
                _ if text.starts_with(b"error") || text.starts_with(b"ERROR") => self.has_error = true,
                // DashScope and watsonx write these values until the last event.
                b"" | b"null" | b"not_finished" | b"NOT_FINISHED" => {}
                _ => {
                    self.is_end = true;
                    self.is_known |= matches!(path, [Choices | Candidates, Item, _]);
                }
            },
            _ => {}
        }
    }

    fn on_type(&mut self, text: &[u8]) {
        // Events of OpenAI, Anthropic and Cohere, most of them without text.
        let prefixes: [&[u8]; 6] = [b"response.", b"session.", b"message", b"content", b"stream-", b"ping"];
        self.is_known |= text == b"model" || prefixes.iter().any(|prefix| text.starts_with(prefix));
        self.is_repetition |= text.ends_with(b".done");
        let ends: [&[u8]; 3] = [b".done", b".completed", b".complete"];
        self.concludes |= ends.iter().any(|end| text.ends_with(end));
        self.has_error |= text == b"error";
        self.is_failure |= text == b"response.failed";
        self.is_audio |= text.ends_with(b"audio.delta");
        self.is_end |= matches!(
            text,
            b"message_stop"
                | b"response.completed"
                | b"response.incomplete"
                | b"response.failed"
                | b"response.done"
                | b"message-end"
                | b"stream-end"
        );
    }

    pub(super) fn on_number(&mut self, counts: &mut DocumentCounts, path: &[Key], number: u64) {
        use Key::*;
        match path {
            // Embeddings as bare arrays; numeric outputs of KServe; the many numbers of a usual embedding.
            [] | [Item] | [Item, Item] | [Outputs, Item, Data, ..] => self.is_known = true,
            [.., Item] => {}
            // Token counts; rankings.
            [InputTokens | TotalTokens | Count | Score]
            | [Item | Results | Data, Item, Score]
            | [Item, Score] => {
                self.is_known = true;
            }
            [.., RelevanceScore] if !is_argument(path) => self.is_known = true,
            [Error, ..] | [Errors, Item, ..] | [Choices, Item, Error, ..] => self.has_error |= number != 0,
            [ErrorCode] | [BaseResp, StatusCode] => self.has_error |= number != 0,
            [Code] => self.has_code |= !(number == 0 || (200..300).contains(&number)),
            _ => {
                if let Some((scope, kind)) = members::count(path) {
                    counts.on_number(scope, kind, number);
                }
            }
        }
    }

    pub(super) fn on_word(&mut self, path: &[Key], word: Word) {
        use Key::*;
        match path {
            [Done | IsFinished | Stop] | [ServerContent, TurnComplete] => {
                self.is_end |= word == Word::True;
                self.is_known |= path.len() == 2;
            }
            [Deleted] | [Results, Item, Flagged] => self.is_known = true,
            _ => {}
        }
    }

    pub(super) fn on_open(&mut self, path: &[Key], is_array: bool) {
        use Key::*;
        match path {
            // SGLang.
            [MetaInfo, FinishReason] => self.is_end = true,
            [MetaInfo] => self.has_meta_info = true,
            // Every text in the items of the last three counts as generated.
            [Models | Tokens | TokenIds | Score | Content | Output | Choices] => self.is_known |= is_array,
            [Output, Message] => self.is_known = true,
            [SetupComplete | Embedding] | [Results, Item, Categories] => self.is_known = true,
            [.., Embedding] if !is_argument(path) => self.is_known = true,
            _ => {}
        }
    }
}

/// Handles the end of an object or array.
pub(super) fn on_close(counts: &mut DocumentCounts, path: &[Key]) {
    match path {
        [.., Key::Iterations | Key::Models, Key::Item] => counts.end_sub_call(),
        [.., Key::Compaction, Key::Item] | [.., Key::Compaction] => {
            counts.is_beside = true;
            counts.end_sub_call();
        }
        _ => {}
    }
}

/// Returns whether a member is inside the arguments of a tool, where names have no meaning.
fn is_argument(path: &[Key]) -> bool {
    use Key::{Args, Arguments, Input, Parameters};
    path.iter().any(|key| matches!(key, Args | Arguments | Input | Parameters))
}
