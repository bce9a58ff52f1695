//! Reads the model, the prompt size and the output bound from a JSON request body, for Admit. Also finds the edit that
//! makes an OpenAI stream report its usage.

mod stream_options;
#[cfg(test)]
mod tests;

pub use stream_options::Edit;
use stream_options::StreamOptions;

use crate::{
    scan::{Event, Key, Scanner, Sink, TEXT_BYTES_MAX},
    text::sanitize_bytes,
};

/// What a request body contains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BodySummary {
    /// True if the body is exactly one complete JSON object. Another parser may interpret any other body differently.
    pub is_object: bool,
    /// Value of the last member `model`; empty if absent.
    pub model: String,
    /// Bytes of prompt text and tool definitions; 0 if none was found.
    pub prompt_bytes: u64,
    /// The largest of the output bounds, because it is unknown which bound a server applies. 0 if the body has no
    /// bound, or if a bound means "unlimited", such as -1.
    pub max_output_tokens: u64,
    /// The edit that makes the stream report its usage; `None` if the body does not request a stream, already requests
    /// usage, or is not one JSON object.
    pub usage_edit: Option<Edit>,
}

/// Estimated number of bytes per token, for a prompt given as token numbers.
const TOKEN_BYTES: u64 = 4;

/// Some clients send a UTF-8 byte order mark before the JSON, and most servers skip it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Returns whether a body that starts with `head` may be a JSON object; `None` if `head` is too short to decide.
pub fn begins_as_object(head: &[u8]) -> Option<bool> {
    if head.len() < BYTE_ORDER_MARK.len() && BYTE_ORDER_MARK.starts_with(head) {
        return None;
    }
    let text = head.strip_prefix(BYTE_ORDER_MARK).unwrap_or(head);
    let first = text.iter().find(|b| !matches!(b, b' ' | b'\t' | b'\n' | b'\r'))?;
    Some(*first == b'{')
}

/// Summarizes a body. If the body is truncated or not JSON, the summary covers the part before the error.
pub fn summarize(body: &[u8]) -> BodySummary {
    let text = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    let mut collector = Collector::default();
    let mut scanner = Scanner::default();
    let consumed = scanner.feed(text, &mut collector);
    let is_complete = scanner.is_done() && text[consumed..].iter().all(u8::is_ascii_whitespace);
    let is_object = is_complete && collector.stream_options.is_object();
    let model = if collector.model.is_empty() { &collector.model_any_case } else { &collector.model };
    let edit = collector.stream_options.edit().filter(|_| is_object);
    BodySummary {
        is_object,
        model: sanitize_bytes(model, TEXT_BYTES_MAX),
        prompt_bytes: collector.prompt_bytes,
        max_output_tokens: if collector.unbounded { 0 } else { collector.max_output_tokens },
        usage_edit: edit.map(|edit| edit.shifted(body.len() - text.len())),
    }
}

#[derive(Debug, Default)]
struct Collector {
    model: Vec<u8>,
    /// The model from a member whose name differs from `model` only in case, such as `Model`.
    model_any_case: Vec<u8>,
    prompt_bytes: u64,
    max_output_tokens: u64,
    /// True if at least one output bound is negative.
    unbounded: bool,
    /// True if the current `source` is text rather than an image.
    text_source: bool,
    tools_at: usize,
    stream_options: StreamOptions,
}

impl Collector {
    /// Stores the last model in the body, as servers' parsers do. A model that is not text clears the stored model.
    fn model(&mut self, path: &[Key], event: &Event<'_>) {
        let model = match path {
            [Key::Model] => &mut self.model,
            [Key::ModelAnyCase] => &mut self.model_any_case,
            _ => return,
        };
        match event {
            Event::Part(_) | Event::Close { .. } => {}
            Event::Text(head) => *model = head.to_vec(),
            Event::Open { .. } | Event::Number(_) | Event::Word { .. } => model.clear(),
        }
    }
}

impl Sink for Collector {
    fn on_event(&mut self, path: &[Key], event: Event<'_>) {
        use Key::*;
        self.stream_options.on_event(path, &event);
        self.model(path, &event);
        match event {
            Event::Part(part) if is_prompt(path) => self.prompt_bytes += part.len() as u64,
            // Anthropic sends documents and images in members with the same name.
            Event::Open { .. } if path.ends_with(&[Source]) => self.text_source = false,
            Event::Text(head) if path.ends_with(&[Source, Type]) => self.text_source = head == b"text",
            Event::Part(part) if self.text_source && is_source_data(path) => {
                self.prompt_bytes += part.len() as u64;
            }
            Event::Open { at, .. } if matches!(path, [Tools | Functions]) => self.tools_at = at,
            Event::Close { at } if matches!(path, [Tools | Functions]) => {
                self.prompt_bytes += (at + 1 - self.tools_at) as u64;
            }
            Event::Number(number) => match path {
                [MaxCompletionTokens | MaxOutputTokens | MaxTokens]
                | [Parameters, MaxTokens]
                | [GenerationConfig, MaxOutputTokens]
                | [Options, NumPredict] => match number {
                    Some(number) => self.max_output_tokens = self.max_output_tokens.max(number),
                    None => self.unbounded = true,
                },
                [Input | Prompt, Item] | [Input | Prompt, Item, Item] => self.prompt_bytes += TOKEN_BYTES,
                _ => {}
            },
            _ => {}
        }
    }
}

/// Returns whether text at this path is part of the prompt.
fn is_prompt(path: &[Key]) -> bool {
    use Key::*;
    let [root, below @ ..] = path else { return false };
    match path {
        // All text in the arguments and results of earlier tool calls.
        [Messages, Item, Content, Item, Input, ..]
        | [Contents, Item, Parts, Item, Function, Args, ..]
        | [Contents, Item, Parts, Item, FunctionResponse, Response, ..] => return true,
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
    let roots = [Messages, Prompt, Input, System, Instructions, Contents, SystemInstruction];
    let ranking_roots = [Documents, Query, Texts];
    (roots.contains(root) || ranking_roots.contains(root)) && below.iter().all(is_within_prompt)
}

/// Returns whether text at this path is the data of a document in a message or in a tool result.
fn is_source_data(path: &[Key]) -> bool {
    use Key::{Content, Data, Item, Messages, Source};
    matches!(path, [Messages, Item, below @ .., Source, Data] if below.iter().all(|key| matches!(key, Content | Item)))
}
