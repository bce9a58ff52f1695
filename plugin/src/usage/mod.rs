//! Reads usage from a response: the model, the tokens, and the number of bytes of generated text. The body arrives in
//! chunks, split at any byte, and is read in constant memory. The reader recognizes the API from the content.
//!
//! | API | source |
//! |---|---|
//! | OpenAI chat completions, completions, embeddings, and compatible servers | `usage.prompt_tokens`, … in the body or a chunk |
//! | OpenAI responses | `usage.input_tokens`, …; in a stream, inside `response` |
//! | Anthropic messages | `usage.input_tokens`, which excludes tokens read from or written to a cache; in a stream, `message_start` and `message_delta` |
//! | Gemini | `usageMetadata`, as JSON, a stream of events or one array |
//! | Qwen on DashScope | `usage.input_tokens`, … in every event |
//! | Ollama | `prompt_eval_count`, `eval_count` in the last line |

mod accumulator;
mod documents;
mod events;
mod stream_length;
#[cfg(test)]
mod tests;
mod token_counts;

use accumulator::UsageAccumulator;
use documents::Documents;
use evenkeel_proto::v1::Tokens;
use events::Events;

/// Usage reported by a response.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// Empty if the response named no model.
    pub model: String,
    /// `None` if the response reported no tokens.
    pub tokens: Option<Tokens>,
    /// Whether `tokens` are the response's final counts.
    pub is_final: bool,
    /// Bytes of generated text.
    pub output_bytes: u64,
    /// True if the body was read to its end and nothing was skipped: `tokens` and `output_bytes` are complete.
    pub body_read: bool,
}

/// How the body frames its JSON values.
#[derive(Debug)]
enum Framing {
    /// The body has contained only whitespace so far.
    Unknown,
    Events(Events),
    Documents(Documents),
}

/// Reads the usage of one response.
#[derive(Debug)]
pub struct UsageReader {
    framing: Framing,
    accumulator: UsageAccumulator,
    by_line: bool,
}

impl UsageReader {
    /// Creates a reader for JSON or server-sent events. With `by_line`, each line is a separate value, and the reader
    /// skips a line that is not valid JSON. Without `by_line`, reading stops at invalid JSON.
    pub fn new(by_line: bool) -> UsageReader {
        UsageReader { framing: Framing::Unknown, accumulator: UsageAccumulator::default(), by_line }
    }

    /// Reads the next chunk of the body.
    pub fn feed(&mut self, chunk: &[u8]) {
        let mut chunk = chunk;
        if let Framing::Unknown = self.framing {
            // Skips whitespace and a byte order mark.
            let is_blank = |b: &u8| b.is_ascii_whitespace() || matches!(b, 0xef | 0xbb | 0xbf);
            let Some(start) = chunk.iter().position(|b| !is_blank(b)) else { return };
            chunk = &chunk[start..];
            self.framing = match chunk[0] {
                b'{' | b'[' => Framing::Documents(Documents::new(self.by_line)),
                _ => Framing::Events(Events::default()),
            };
        }
        match &mut self.framing {
            Framing::Events(events) => events.feed(chunk, &mut self.accumulator),
            Framing::Documents(documents) => documents.feed(chunk, &mut self.accumulator),
            Framing::Unknown => {}
        }
    }

    /// Ends the body. Callers do not call this for a truncated body.
    pub fn end(&mut self) {
        let is_whole = match &mut self.framing {
            Framing::Events(events) => events.end(&mut self.accumulator),
            Framing::Documents(documents) => documents.is_between_values(),
            Framing::Unknown => false,
        };
        if is_whole {
            self.accumulator.end();
        }
    }

    /// Returns the usage reported so far.
    pub fn usage(&self) -> Usage {
        self.accumulator.usage()
    }

    /// Returns the number of events, lines or bodies that are not valid JSON.
    pub fn faults(&self) -> u64 {
        self.accumulator.faults()
    }

    /// Returns the bytes of heap memory in use.
    pub fn held_bytes(&self) -> usize {
        self.accumulator.held_bytes()
    }
}
