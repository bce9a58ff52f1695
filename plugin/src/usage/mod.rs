//! What a response tells of its usage: model, tokens, and how much text it carried. Read from the chunks as they
//! pass, cut anywhere, in a fixed amount of memory whatever the size of the body. The shape is found in the
//! content, not configured.
//!
//! | shape | told by |
//! |---|---|
//! | OpenAI chat completions, completions, embeddings, and the many servers alike | `usage.prompt_tokens`, … in the body or a chunk |
//! | OpenAI responses | `usage.input_tokens`, …; in a stream below `response` |
//! | Anthropic messages | `usage.input_tokens` without what was read from or written to a cache; in a stream `message_start` and `message_delta` |
//! | Gemini | `usageMetadata`, as JSON, as a stream of events or as one array |
//! | Qwen on DashScope | `usage.input_tokens`, … in every event |
//! | Ollama | `prompt_eval_count`, `eval_count` in the last line |

mod documents;
mod events;
mod growing;
mod tally;
#[cfg(test)]
mod tests;

use documents::Documents;
use evenkeel_proto::v1::Tokens;
use events::Events;
use tally::Tally;

/// What a response told of its usage.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// Model it named; empty when none.
    pub model: String,
    /// Tokens it told; none when it told none.
    pub tokens: Option<Tokens>,
    /// Whether these are what it told at its end.
    pub is_final: bool,
    /// Bytes of generated text.
    pub output_bytes: u64,
    /// The body was read to its end, and nothing in it was passed over: there is no more than this.
    pub body_read: bool,
}

/// How values follow each other in the body.
#[derive(Debug)]
enum Framing {
    /// Nothing but blanks has come.
    Unknown,
    /// Server-sent events.
    Events(Events),
    /// One value, several, or an array of them.
    Documents(Documents),
}

/// Reads the usage from a response.
#[derive(Debug)]
pub struct Reader {
    framing: Framing,
    tally: Tally,
    /// Each line is a value of its own.
    by_line: bool,
}

impl Reader {
    /// For a body of JSON or server-sent events. With `by_line` each line is a value of its own, and one that cannot
    /// be read does not end the reading.
    pub fn new(by_line: bool) -> Reader {
        Reader { framing: Framing::Unknown, tally: Tally::default(), by_line }
    }

    /// The next piece of the body.
    pub fn feed(&mut self, chunk: &[u8]) {
        let mut chunk = chunk;
        if let Framing::Unknown = self.framing {
            // A byte order mark is passed over like a blank.
            let blank = |b: &u8| b.is_ascii_whitespace() || matches!(b, 0xef | 0xbb | 0xbf);
            let Some(start) = chunk.iter().position(|b| !blank(b)) else { return };
            chunk = &chunk[start..];
            self.framing = match chunk[0] {
                b'{' | b'[' => Framing::Documents(Documents::new(self.by_line)),
                _ => Framing::Events(Events::default()),
            };
        }
        match &mut self.framing {
            Framing::Events(events) => events.feed(chunk, &mut self.tally),
            Framing::Documents(documents) => documents.feed(chunk, &mut self.tally),
            Framing::Unknown => {}
        }
    }

    /// The body ended, and was not cut off.
    pub fn end(&mut self) {
        let whole = match &mut self.framing {
            Framing::Events(events) => events.end(&mut self.tally),
            Framing::Documents(documents) => documents.end(),
            Framing::Unknown => false,
        };
        if whole {
            self.tally.end();
        }
    }

    /// What it told so far.
    pub fn usage(&self) -> Usage {
        self.tally.usage()
    }

    /// Events, lines or bodies that could not be read.
    pub fn faults(&self) -> u64 {
        self.tally.faults()
    }

    /// Bytes it holds beside its own size.
    pub fn held_bytes(&self) -> usize {
        self.tally.held_bytes()
    }
}
