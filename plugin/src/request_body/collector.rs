//! Collects what Admit reports from the events of a request body.

use super::stream_options::StreamOptions;
use crate::scan::{Event, Key, Sink, TEXT_BYTES_MAX, Word};

/// Estimated number of bytes per token, for a prompt given as token numbers.
const TOKEN_BYTES: u64 = 4;

#[derive(Debug, Default)]
pub(super) struct Collector {
    model: Name,
    /// The model from a member whose name differs from `model` only in case, such as `Model`.
    model_any_case: Name,
    model_id: Name,
    pub(super) prompt_bytes: u64,
    output_bound: u64,
    /// True if at least one output bound is negative.
    unbounded: bool,
    /// The largest number of answers that the body asks for for each prompt.
    answers: u64,
    /// Number of prompts in a list.
    prompts: u64,
    /// Number of requests in a batch.
    requests: u64,
    pub(super) is_background: bool,
    /// True if the current `source` is text rather than an image.
    text_source: bool,
    tools_at: usize,
    pub(super) stream_options: StreamOptions,
}

/// The last text of a member that names a model.
#[derive(Debug, Default)]
struct Name {
    text: Vec<u8>,
    /// Length of the text that is being read.
    len: usize,
}

impl Name {
    /// Stores the last value, as servers' parsers do. A value that is not text clears the name, and so does a text that
    /// is too long for a model's name: truncated names could be equal although the models differ.
    fn on_event(&mut self, event: &Event<'_>) {
        match event {
            Event::Part(part) => self.len += part.len(),
            Event::Text(head) => {
                self.text = if self.len > TEXT_BYTES_MAX { Vec::new() } else { head.to_vec() };
                self.len = 0;
            }
            Event::Close { .. } => {}
            Event::Open { .. } | Event::Number(_) | Event::Word { .. } => self.text.clear(),
        }
    }
}

impl Collector {
    /// Returns the model; empty if the body names none.
    pub(super) fn model(&self) -> &[u8] {
        if self.model.text.is_empty() { &self.model_any_case.text } else { &self.model.text }
    }

    pub(super) fn model_id(&self) -> &[u8] {
        &self.model_id.text
    }

    /// Returns the largest of the output bounds; 0 if there is none, or if one means "unlimited".
    pub(super) fn max_output_tokens(&self) -> u64 {
        if self.unbounded { 0 } else { self.output_bound }
    }

    /// Returns the number of answers over all prompts and requests.
    pub(super) fn choices(&self) -> u64 {
        [self.answers, self.prompts, self.requests].iter().fold(1, |all, n| all.saturating_mul((*n).max(1)))
    }

    pub(super) fn is_batch(&self) -> bool {
        self.requests > 0
    }

    /// Handles a number of a member that bounds the work of a request.
    fn on_number(&mut self, path: &[Key], number: Option<u64>) {
        use Key::*;
        match path {
            [OutputBound] | [Parameters | GenerationConfig | Options | InferenceConfig, OutputBound] => {
                match number {
                    Some(number) => self.output_bound = self.output_bound.max(number),
                    None => self.unbounded = true,
                }
            }
            // `n` and `best_of` may both be present. The largest counts, as for the output bounds.
            [Answers] | [Parameters | GenerationConfig | Options | InferenceConfig, Answers] => {
                self.answers = self.answers.max(number.unwrap_or(0));
            }
            [Input | Prompt, Item] | [Input | Prompt, Item, Item] => self.prompt_bytes += TOKEN_BYTES,
            _ => {}
        }
    }

    /// Handles an event of one request.
    fn on_request_event(&mut self, path: &[Key], event: &Event<'_>) {
        use Key::*;
        match path {
            [Model] => self.model.on_event(event),
            [ModelAnyCase] => self.model_any_case.on_event(event),
            [ModelId] => self.model_id.on_event(event),
            _ => {}
        }
        match event {
            Event::Part(part) if is_prompt(path) => self.prompt_bytes += part.len() as u64,
            // Anthropic sends documents and images in members with the same name.
            Event::Open { .. } if path.ends_with(&[Source]) => self.text_source = false,
            Event::Text(head) if path.ends_with(&[Source, Type]) => self.text_source = *head == b"text",
            Event::Part(part) if self.text_source && is_source_data(path) => {
                self.prompt_bytes += part.len() as u64;
            }
            Event::Open { at, .. } if is_tools(path) => self.tools_at = *at,
            Event::Close { at } if is_tools(path) => {
                self.prompt_bytes += (at + 1 - self.tools_at) as u64;
            }
            // An object among `inputs` is a tensor of KServe, not a prompt.
            Event::Text(_) | Event::Open { array: true, .. } if matches!(path, [Prompt | Text, Item]) => {
                self.prompts += 1;
            }
            // Some servers accept numbers as text.
            Event::Text(head) if matches!(path, [.., OutputBound | Answers]) => {
                if let Some(number) = str::from_utf8(head).ok().and_then(|text| text.trim().parse().ok()) {
                    self.on_number(path, Some(number));
                }
            }
            Event::Number(number) => self.on_number(path, *number),
            Event::Word { word: Word::True, .. } if path == [Background] => self.is_background = true,
            _ => {}
        }
    }
}

impl Sink for Collector {
    fn on_event(&mut self, path: &[Key], event: Event<'_>) {
        use Key::*;
        self.stream_options.on_event(path, &event);
        match path {
            // Requests inside a batch of Anthropic and of Gemini.
            [Requests, Item, Params, within @ ..]
            | [Batch, InputConfig, Requests, Requests, Item, Request, within @ ..]
                if !within.is_empty() =>
            {
                self.on_request_event(within, &event);
            }
            [Requests, Item] | [Batch, InputConfig, Requests, Requests, Item] => {
                if let Event::Open { .. } = event {
                    self.requests += 1;
                }
            }
            _ => self.on_request_event(path, &event),
        }
    }
}

/// Returns whether the value at this path contains the definitions of tools.
fn is_tools(path: &[Key]) -> bool {
    // DashScope and Bedrock have them inside another member.
    matches!(path, [Key::Tools | Key::Functions] | [Key::Parameters | Key::ToolConfig, Key::Tools])
}

/// Returns whether text at this path is part of the prompt.
fn is_prompt(path: &[Key]) -> bool {
    use Key::*;
    let [root, below @ ..] = path else { return false };
    match path {
        // All text in the arguments and results of earlier tool calls.
        [Messages, Item, Content, Item, Input, ..]
        | [Contents, Item, Parts, Item, Function, Args, ..]
        | [Contents, Item, Parts, Item, FunctionResponse, Response, ..]
        // Tensors of KServe.
        | [Prompt, Item, Data, ..] => return true,
        _ => {}
    }
    let is_within_prompt = |key: &Key| {
        matches!(
            key,
            Item | Content
                | Parts
                | Text
                | Messages
                | Prompt
                | Texts
                | ToolCalls
                | Function
                | Arguments
                | Output
                | Source
                | Documents
                | Query
        )
    };
    let roots = [Messages, Prompt, Input, System, Instructions, Contents, SystemInstruction, Message, Text];
    let ranking_roots = [Documents, Query, Texts];
    (roots.contains(root) || ranking_roots.contains(root)) && below.iter().all(is_within_prompt)
}

/// Returns whether text at this path is the data of a document in a message or in a tool result.
fn is_source_data(path: &[Key]) -> bool {
    use Key::{Content, Data, Item, Messages, Source};
    matches!(path, [Messages, Item, below @ .., Source, Data] if below.iter().all(|key| matches!(key, Content | Item)))
}
