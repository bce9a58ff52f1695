//! What Admit wants to know of a JSON request body: model, size of the prompt, bound of the output.

use serde_json::Value;

/// Facts read from a request body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BodyFacts {
    /// `model`; empty when absent.
    pub model: String,
    /// Bytes of prompt text; 0 when none was found.
    pub prompt_bytes: u64,
    /// `max_completion_tokens`, `max_output_tokens` or `max_tokens`; 0 when absent.
    pub max_output_tokens: u64,
}

/// Longest model name passed on, in bytes.
const MODEL_BYTES_MAX: usize = 256;

/// Reads the facts; a body that is no JSON object gives none.
pub fn read(body: &[u8]) -> BodyFacts {
    let Ok(Value::Object(fields)) = serde_json::from_slice(body) else {
        return BodyFacts::default();
    };
    let model = fields.get("model").and_then(Value::as_str).unwrap_or_default();
    let prompt_bytes =
        ["messages", "prompt", "input", "system", "instructions", "contents", "systemInstruction"]
            .iter()
            .filter_map(|name| fields.get(*name))
            .map(|value| text_bytes(value, DEPTH_MAX))
            .sum();
    let max_output_tokens = ["max_completion_tokens", "max_output_tokens", "max_tokens"]
        .iter()
        .find_map(|name| fields.get(*name).and_then(Value::as_u64))
        .unwrap_or(0);
    BodyFacts { model: crate::facts::cut(model, MODEL_BYTES_MAX).to_owned(), prompt_bytes, max_output_tokens }
}

/// Levels of nesting looked into.
const DEPTH_MAX: u32 = 8;

/// Bytes of text below a value: a string, or what its `content`, `parts`, `text` hold.
fn text_bytes(value: &Value, depth: u32) -> u64 {
    if depth == 0 {
        return 0;
    }
    match value {
        Value::String(text) => text.len() as u64,
        Value::Array(items) => items.iter().map(|item| text_bytes(item, depth - 1)).sum(),
        Value::Object(fields) => ["content", "parts", "text"]
            .iter()
            .filter_map(|name| fields.get(*name))
            .map(|item| text_bytes(item, depth - 1))
            .sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_the_common_shapes() {
        let cases: [(&str, (&str, u64, u64)); 8] = [
            (r#"{"model":"m","messages":[{"role":"user","content":"hello"}],"max_tokens":7}"#, ("m", 5, 7)),
            (
                r#"{"model":"m","messages":[{"content":[{"type":"text","text":"abc"},{"type":"image"}]}]}"#,
                ("m", 3, 0),
            ),
            (r#"{"model":"m","prompt":["ab","cd"],"max_completion_tokens":9,"max_tokens":1}"#, ("m", 4, 9)),
            (r#"{"model":"m","input":"abcd","instructions":"xy","max_output_tokens":3}"#, ("m", 6, 3)),
            (r#"{"contents":[{"parts":[{"text":"abc"}]}]}"#, ("", 3, 0)),
            (r#"{"model":7,"max_tokens":"many"}"#, ("", 0, 0)),
            ("[1,2]", ("", 0, 0)),
            (r#"{"model":"m","messages":[{"content":"cut of"#, ("", 0, 0)),
        ];
        for (body, (model, prompt_bytes, max_output_tokens)) in cases {
            let expected = BodyFacts { model: model.into(), prompt_bytes, max_output_tokens };
            assert_eq!(read(body.as_bytes()), expected, "{body}");
        }
    }

    #[test]
    fn a_long_model_name_is_cut() {
        let body = format!(r#"{{"model":"{}"}}"#, "é".repeat(300));
        assert_eq!(read(body.as_bytes()).model.len(), 256);
    }
}
