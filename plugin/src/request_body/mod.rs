//! Reads the model, the prompt size, the output bound and the number of answers from a JSON request body, for Admit and
//! Settle. Also finds the edit that makes an OpenAI stream report its usage.

mod collector;
mod prefix;
mod reader;
mod stream_options;
#[cfg(test)]
mod tests;

pub use prefix::{PrefixSettings, Prefixes};
pub use reader::BodyReader;
pub use stream_options::Edit;

/// What a request body contains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BodySummary {
    /// True if the body is exactly one complete JSON object. Another parser may interpret any other body differently.
    pub is_object: bool,
    /// Value of the last member `model`; empty if absent or longer than a model's name.
    pub model: String,
    /// Value of the last member `model_id`, which names the model in some APIs; empty if absent.
    pub model_id: String,
    /// Bytes of prompt text and tool definitions; 0 if none was found.
    pub prompt_bytes: u64,
    /// The largest of the output bounds, because it is unknown which bound a server applies. 0 if the body has no
    /// bound, or if a bound means "unlimited", such as -1.
    pub max_output_tokens: u64,
    /// Number of answers that the body asks for, over all its prompts; at least 1.
    pub choices: u64,
    /// True if the server generates after its response: a background response, or a batch.
    pub is_background: bool,
    /// Hashes of the beginnings of the prompt. None unless the reader was created for them and `is_object`.
    pub prefixes: Prefixes,
    /// The edit that makes the stream report its usage; `None` if the body does not request a stream, already requests
    /// usage, or is not one JSON object.
    pub usage_edit: Option<Edit>,
}

/// Summarizes a body. If the body is truncated or not JSON, the summary covers the part before the error.
pub fn summarize(body: &[u8]) -> BodySummary {
    let mut reader = BodyReader::default();
    reader.feed(body);
    reader.summary()
}
