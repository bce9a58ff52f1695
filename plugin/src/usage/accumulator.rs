//! Interprets the JSON values of a response, and accumulates the usage that they report.

use super::{Usage, stream_length::StreamLength, token_counts::TokenCounts};
use crate::{
    scan::{Event, Key, Sink, TEXT_BYTES_MAX, Word},
    text::sanitize_bytes,
};

/// Usage reported by one JSON value.
#[derive(Clone, Debug, Default)]
struct Document {
    counts: TokenCounts,
    /// Bytes of generated text.
    text: u64,
    /// Bytes of reasoning under each of two member names. Some servers send the same text under both names.
    reasoning: u64,
    reasoning_content: u64,
    has_choices: bool,
    has_choice: bool,
    /// True if the value contains a finish reason.
    finished: bool,
    /// True if the value's `type` marks the value as the last of the stream.
    last: bool,
}

impl Document {
    fn output_bytes(&self) -> u64 {
        self.text + self.reasoning.max(self.reasoning_content)
    }
}

/// Accumulates the usage of a response.
#[derive(Debug, Default)]
pub(super) struct UsageAccumulator {
    model: String,
    counts: TokenCounts,
    output_bytes: u64,
    document: Document,
    /// Lengths of DashScope's content and reasoning.
    content: StreamLength,
    reasoning: StreamLength,
    complete: bool,
    /// True if at least one value was read.
    has_value: bool,
    /// True if data that is not JSON was skipped.
    skipped: bool,
    ended: bool,
    faults: u64,
}

impl UsageAccumulator {
    /// Ends a value. `whole` is true if the value is the whole body.
    pub(super) fn end_document(&mut self, whole: bool) {
        self.has_value = true;
        let document = std::mem::take(&mut self.document);
        self.counts = self.counts.merge(document.counts);
        self.output_bytes += document.output_bytes();
        self.content.end_event();
        self.reasoning.end_event();
        // OpenAI's usage chunk has an empty list of choices.
        let is_usage_chunk = document.has_choices && !document.has_choice;
        let is_final = document.counts.is_reported() && (whole || is_usage_chunk || document.finished);
        self.complete |= document.last || is_final;
    }

    /// Ends a value that is not valid JSON. Discards the value's token counts, but not its number of text bytes.
    pub(super) fn broken_document(&mut self) {
        self.document.counts = TokenCounts::default();
        (self.document.finished, self.document.last) = (false, false);
        self.end_document(false);
        self.faults += 1;
    }

    /// Records that data was skipped because it is not JSON.
    pub(super) fn skip(&mut self) {
        self.skipped = true;
    }

    /// Records that the body ended between two values.
    pub(super) fn end(&mut self) {
        self.complete = true;
        self.ended = true;
    }

    /// Records that the response announced its end.
    pub(super) fn mark_complete(&mut self) {
        self.complete = true;
    }

    pub(super) fn faults(&self) -> u64 {
        self.faults
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.model.capacity()
    }

    pub(super) fn usage(&self) -> Usage {
        // Ignore the total of an incomplete value, because a total may precede the counts that it sums.
        let counts = self.counts.merge(TokenCounts { total: None, ..self.document.counts });
        let output_bytes =
            self.output_bytes + self.document.output_bytes() + self.content.bytes() + self.reasoning.bytes();
        // The usage is not final if the response did not report the tokens of its prompt (Ollama omits a cached prompt)
        // or of its text. The sidecar then estimates the missing counts.
        let has_all =
            counts.has_input() && (counts.has_output() || counts.total.is_some() || output_bytes == 0);
        Usage {
            model: self.model.clone(),
            is_final: self.complete && has_all,
            tokens: counts.tokens(),
            output_bytes,
            body_read: self.ended && self.has_value && !self.skipped && self.faults == 0,
        }
    }

    fn set_count(&mut self, path: &[Key], number: u64) {
        use Key::*;
        let counts = &mut self.document.counts;
        let count = match path {
            [.., Usage, PromptTokensDetails | InputTokensDetails, CachedTokens] => &mut counts.cached,
            [.., Usage, CompletionTokensDetails | OutputTokensDetails, ReasoningTokens] => {
                &mut counts.reasoning
            }
            // DashScope's applications list every model they used.
            [Usage, Models, Item, InputTokens | OutputTokens] => {
                let count =
                    if path.ends_with(&[InputTokens]) { &mut counts.input } else { &mut counts.output };
                *count = Some(count.unwrap_or(0).saturating_add(number));
                return;
            }
            [.., Usage | UsageMetadata, name] | [name] => match name {
                PromptTokens | PromptTokenCount | PromptEvalCount => &mut counts.prompt,
                InputTokens => &mut counts.input,
                CacheReadInputTokens => &mut counts.cache_read,
                CacheCreationInputTokens => &mut counts.cache_written,
                CachedTokens | PromptCacheHitTokens | CachedContentTokenCount => &mut counts.cached,
                ToolUsePromptTokenCount => &mut counts.tool_prompt,
                CompletionTokens | OutputTokens | CandidatesTokenCount | EvalCount => &mut counts.output,
                ThoughtsTokenCount => &mut counts.thoughts,
                TotalTokens => &mut counts.total,
                _ => return,
            },
            _ => return,
        };
        *count = Some(number);
    }

    /// Counts the bytes of a part of a text if the path is that of generated text.
    fn on_text_part(&mut self, path: &[Key], part: &[u8]) {
        use Key::*;
        let bytes = part.len() as u64;
        let document = &mut self.document;
        match path {
            // OpenAI chat completions.
            [Choices, Item, Delta | Message, rest @ ..] => match rest {
                [Content | Refusal] | [Content, Item, Text] => document.text += bytes,
                [Function, Arguments] | [ToolCalls, Item, Function, Arguments] => document.text += bytes,
                [Reasoning] => document.reasoning += bytes,
                [ReasoningContent] => document.reasoning_content += bytes,
                _ => {}
            },
            // OpenAI completions.
            [Choices, Item, Text]
            // OpenAI responses: events and a whole response.
            | [Delta]
            | [Output, Item, Arguments | Input]
            | [Output, Item, Content | Summary, Item, Text | Refusal]
            // Anthropic: events and a whole message.
            | [Delta, Text | Thinking | PartialJson]
            | [Content, Item, Text | Thinking]
            | [Content, Item, Input, ..]
            // Gemini.
            | [Candidates, Item, Content, Parts, Item, Text]
            | [Candidates, Item, Content, Parts, Item, ExecutableCode, Code]
            | [Candidates, Item, Content, Parts, Item, Function, Args, ..]
            // Ollama.
            | [Response | Thinking]
            | [Message, Content | Thinking]
            | [Message, ToolCalls, Item, Function, Arguments, ..] => document.text += bytes,
            // DashScope.
            [Output, Text] | [Output, Choices, Item, Message, Content] => self.content.add(part),
            [Output, Choices, Item, Message, Content, Item, Text] => self.content.add(part),
            [Output, Choices, Item, Message, ReasoningContent] => self.reasoning.add(part),
            [Output, Choices, Item, Message, ToolCalls, Item, Function, Arguments] => document.text += bytes,
            _ => {}
        }
    }

    fn on_text(&mut self, path: &[Key], text: &[u8]) {
        use Key::*;
        match path {
            [Model]
            | [Message | Response, Model]
            | [ModelVersion]
            | [Response, ModelVersion]
            | [Usage, Models, Item, ModelId]
                if self.model.is_empty() =>
            {
                self.model = sanitize_bytes(text, TEXT_BYTES_MAX);
            }
            [Type] => {
                self.document.last = matches!(
                    text,
                    b"message_stop" | b"response.completed" | b"response.incomplete" | b"response.failed"
                );
            }
            // DashScope writes "null" until the last event.
            [Candidates, Item, FinishReason]
            | [Output, FinishReason]
            | [Output, Choices, Item, FinishReason] => {
                self.document.finished |= !matches!(text, b"" | b"null");
            }
            _ => {}
        }
    }
}

impl Sink for UsageAccumulator {
    fn on_event(&mut self, path: &[Key], event: Event<'_>) {
        use Key::*;
        match event {
            Event::Part(part) => self.on_text_part(path, part),
            Event::Text(head) => self.on_text(path, head),
            Event::Number(Some(number)) => match path {
                [Usage | UsageMetadata, ..]
                | [Response | Message | XGroq, Usage | UsageMetadata, ..]
                | [Choices, Item, Usage, ..]
                | [PromptEvalCount | EvalCount] => self.set_count(path, number),
                _ => {}
            },
            Event::Open { array, .. } => match path {
                [Choices] => self.document.has_choices |= array,
                [Choices, Item] => self.document.has_choice = true,
                _ => {}
            },
            Event::Word { word: Word::True, .. } => self.document.finished |= path == [Done],
            _ => {}
        }
    }
}
