//! What the values of a response mean.

use super::{Usage, growing::Growing};
use crate::scan::{Event, Key, Sink, TEXT_BYTES_MAX, Word};
use evenkeel_proto::v1::Tokens;

/// Counts under the names providers give them; none where not told.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// Of the whole prompt: OpenAI chat, Gemini, Ollama.
    prompt: Option<u64>,
    /// Of the prompt, at Anthropic without the next two.
    input: Option<u64>,
    cache_read: Option<u64>,
    cache_written: Option<u64>,
    /// Read from a cache, within the prompt.
    cached: Option<u64>,
    /// Gemini's prompts of tool calls, beside the prompt.
    tool_prompt: Option<u64>,
    output: Option<u64>,
    /// Within the output.
    reasoning: Option<u64>,
    /// Gemini's, beside the output.
    thoughts: Option<u64>,
    /// Of both, at OpenAI and those alike.
    total: Option<u64>,
}

impl Counts {
    /// With what came later. Counts of a stream only grow; some servers send zeros in between.
    fn then(self, later: Counts) -> Counts {
        Counts {
            prompt: self.prompt.max(later.prompt),
            input: self.input.max(later.input),
            cache_read: self.cache_read.max(later.cache_read),
            cache_written: self.cache_written.max(later.cache_written),
            cached: self.cached.max(later.cached),
            tool_prompt: self.tool_prompt.max(later.tool_prompt),
            output: self.output.max(later.output),
            reasoning: self.reasoning.max(later.reasoning),
            thoughts: self.thoughts.max(later.thoughts),
            total: self.total.max(later.total),
        }
    }

    fn told(self) -> bool {
        self.told_input() || self.told_output()
    }

    /// A total alone is the input: of embeddings and rankings.
    fn told_input(self) -> bool {
        self.prompt.or(self.input).or(self.total).is_some()
    }

    fn told_output(self) -> bool {
        self.output.or(self.thoughts).is_some()
    }

    /// In the terms of Settle; none when nothing was told.
    fn tokens(self) -> Option<Tokens> {
        if !self.told() {
            return None;
        }
        let or_0 = |count: Option<u64>| count.unwrap_or(0);
        let plus = |a: u64, b: Option<u64>| a.saturating_add(or_0(b));
        let mut output = plus(or_0(self.output), self.thoughts);
        let input = match (self.prompt, self.input) {
            (Some(prompt), _) => prompt,
            (None, Some(input)) => plus(plus(input, self.cache_read), self.cache_written),
            (None, None) => or_0(self.total).saturating_sub(output),
        };
        let input = plus(input, self.tool_prompt);
        let reasoning = or_0(self.reasoning.or(self.thoughts));
        if reasoning > 0 && self.thoughts.is_none() {
            // Some servers leave reasoning out of the output, and only the total shows it.
            let beside = output.saturating_add(reasoning);
            if self.total == Some(input.saturating_add(beside)) {
                output = beside;
            }
        } else if let (Some(_), Some(total), None) = (self.prompt, self.total, self.thoughts) {
            // Others do not say that there was any.
            output = output.max(total.saturating_sub(input));
        }
        Some(Tokens {
            input,
            output,
            cached_input: or_0(self.cached.or(self.cache_read)).min(input),
            reasoning: reasoning.min(output),
        })
    }
}

/// What one JSON value told.
#[derive(Clone, Debug, Default)]
struct Document {
    counts: Counts,
    /// Bytes of generated text; of reasoning under each of its two names, as some servers send it under both.
    text: u64,
    reasoning: u64,
    reasoning_content: u64,
    /// It has choices, and at least one.
    choices: bool,
    choice: bool,
    /// It says why the generation finished.
    finished: bool,
    /// It is the last by its type.
    last: bool,
}

impl Document {
    fn output_bytes(&self) -> u64 {
        self.text + self.reasoning.max(self.reasoning_content)
    }
}

/// Gathers what the values of a response tell.
#[derive(Debug, Default)]
pub(super) struct Tally {
    model: String,
    counts: Counts,
    output_bytes: u64,
    document: Document,
    /// DashScope's texts: content and reasoning.
    content: Growing,
    reasoning: Growing,
    complete: bool,
    /// A value was read; something that is none was passed over.
    read: bool,
    passed_over: bool,
    /// The body came to its end.
    ended: bool,
    faults: u64,
}

impl Tally {
    /// A value ended; `whole` if it was the whole body.
    pub(super) fn end_document(&mut self, whole: bool) {
        self.read = true;
        let document = std::mem::take(&mut self.document);
        self.counts = self.counts.then(document.counts);
        self.output_bytes += document.output_bytes();
        self.content.end();
        self.reasoning.end();
        let usage_alone = document.choices && !document.choice;
        let told_all = document.counts.told() && (whole || usage_alone || document.finished);
        self.complete |= document.last || told_all;
    }

    /// A value could not be read: its counts are not trusted, its text was seen.
    pub(super) fn broken_document(&mut self) {
        self.document.counts = Counts::default();
        (self.document.finished, self.document.last) = (false, false);
        self.end_document(false);
        self.faults += 1;
    }

    /// Something is no JSON, and not meant to be.
    pub(super) fn pass_over(&mut self) {
        self.passed_over = true;
    }

    /// The body came to its end, between two values.
    pub(super) fn end(&mut self) {
        self.complete = true;
        self.ended = true;
    }

    /// The response told it ended.
    pub(super) fn complete(&mut self) {
        self.complete = true;
    }

    pub(super) fn faults(&self) -> u64 {
        self.faults
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.model.capacity()
    }

    pub(super) fn usage(&self) -> Usage {
        // The total of a value under way may come before what it is the total of.
        let counts = self.counts.then(Counts { total: None, ..self.document.counts });
        let output_bytes =
            self.output_bytes + self.document.output_bytes() + self.content.bytes() + self.reasoning.bytes();
        // Text whose tokens were not told, and a prompt that was not, as Ollama's from a cache, have to be reckoned.
        let told_all =
            counts.told_input() && (counts.told_output() || counts.total.is_some() || output_bytes == 0);
        Usage {
            model: self.model.clone(),
            is_final: self.complete && told_all,
            tokens: counts.tokens(),
            output_bytes,
            body_read: self.ended && self.read && !self.passed_over && self.faults == 0,
        }
    }

    fn count(&mut self, path: &[Key], number: u64) {
        use Key::*;
        let counts = &mut self.document.counts;
        let count = match path {
            [.., Usage, PromptTokensDetails | InputTokensDetails, CachedTokens] => &mut counts.cached,
            [.., Usage, CompletionTokensDetails | OutputTokensDetails, ReasoningTokens] => {
                &mut counts.reasoning
            }
            // DashScope's applications list the models they used.
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

    /// Where generated text is added to.
    fn text(&mut self, path: &[Key], piece: &[u8]) {
        use Key::*;
        let bytes = piece.len() as u64;
        let document = &mut self.document;
        match path {
            // OpenAI's chat.
            [Choices, Item, Delta | Message, rest @ ..] => match rest {
                [Content | Refusal] | [Content, Item, Text] => document.text += bytes,
                [Function, Arguments] | [ToolCalls, Item, Function, Arguments] => document.text += bytes,
                [Reasoning] => document.reasoning += bytes,
                [ReasoningContent] => document.reasoning_content += bytes,
                _ => {}
            },
            // Its completions.
            [Choices, Item, Text]
            // Its responses: events, and a whole one.
            | [Delta]
            | [Output, Item, Arguments | Input]
            | [Output, Item, Content | Summary, Item, Text | Refusal]
            // Anthropic: events, and a whole message.
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
            [Output, Text] | [Output, Choices, Item, Message, Content] => self.content.part(piece),
            [Output, Choices, Item, Message, Content, Item, Text] => self.content.part(piece),
            [Output, Choices, Item, Message, ReasoningContent] => self.reasoning.part(piece),
            [Output, Choices, Item, Message, ToolCalls, Item, Function, Arguments] => document.text += bytes,
            _ => {}
        }
    }

    fn named(&mut self, path: &[Key], text: &[u8]) {
        use Key::*;
        match path {
            [Model]
            | [Message | Response, Model]
            | [ModelVersion]
            | [Response, ModelVersion]
            | [Usage, Models, Item, ModelId]
                if self.model.is_empty() =>
            {
                self.model = crate::facts::decode(text, TEXT_BYTES_MAX);
            }
            [Type] => {
                self.document.last = matches!(
                    text,
                    b"message_stop" | b"response.completed" | b"response.incomplete" | b"response.failed"
                );
            }
            // DashScope writes "null" while it goes on.
            [Candidates, Item, FinishReason]
            | [Output, FinishReason]
            | [Output, Choices, Item, FinishReason] => {
                self.document.finished |= !matches!(text, b"" | b"null");
            }
            _ => {}
        }
    }
}

impl Sink for Tally {
    fn on(&mut self, path: &[Key], event: Event<'_>) {
        use Key::*;
        match event {
            Event::Part(piece) => self.text(path, piece),
            Event::Text(head) => self.named(path, head),
            Event::Number(Some(number)) => match path {
                [Usage | UsageMetadata, ..]
                | [Response | Message | XGroq, Usage | UsageMetadata, ..]
                | [Choices, Item, Usage, ..]
                | [PromptEvalCount | EvalCount] => self.count(path, number),
                _ => {}
            },
            Event::Open { array, .. } => match path {
                [Choices] => self.document.choices |= array,
                [Choices, Item] => self.document.choice = true,
                _ => {}
            },
            Event::Word { word: Word::True, .. } => self.document.finished |= path == [Done],
            _ => {}
        }
    }
}
