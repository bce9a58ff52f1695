//! What Admit wants to know of a JSON request body: model, size of the prompt, bound of the output. And the change
//! that asks an OpenAI stream for its usage.

use crate::{
    facts::decode,
    scan::{Event, Key, Scanner, Sink, TEXT_BYTES_MAX, Word},
};
use std::ops::Range;

/// Facts read from a request body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BodyFacts {
    /// The body is one JSON object, and nothing else: what is not, another reader may understand in another way.
    pub understood: bool,
    /// `model`, the last where there are several; empty when absent.
    pub model: String,
    /// Bytes of prompt text and of tool definitions; 0 when none was found.
    pub prompt_bytes: u64,
    /// The largest of all bounds of the output, as it is not known which the server heeds; 0 when it named none, or one that
    /// is none, such as -1.
    pub max_output_tokens: u64,
    /// What would make it ask for its usage at the end of its stream; none where it is not to stream, asks for it
    /// already, or is not understood.
    pub include_usage: Option<Edit>,
}

/// A change of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// What is replaced; may be empty.
    at: Range<usize>,
    /// By what.
    by: &'static str,
}

impl Edit {
    /// The changed body; none where the edit is not within it.
    pub fn apply(&self, body: &[u8]) -> Option<Vec<u8>> {
        let (before, after) = (body.get(..self.at.start)?, body.get(self.at.end..)?);
        Some([before, self.by.as_bytes(), after].concat())
    }

    fn moved(self, by: usize) -> Edit {
        Edit { at: self.at.start + by..self.at.end + by, ..self }
    }
}

/// Bytes a token stands for in a prompt that is given as tokens.
const TOKEN_BYTES: u64 = 4;

/// What some clients write before their JSON, and most servers pass over.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Whether a body may be a JSON object, from its beginning; none where that does not show yet.
pub fn begins_as_object(head: &[u8]) -> Option<bool> {
    if head.len() < BYTE_ORDER_MARK.len() && BYTE_ORDER_MARK.starts_with(head) {
        return None;
    }
    let text = head.strip_prefix(BYTE_ORDER_MARK).unwrap_or(head);
    let first = text.iter().find(|b| !matches!(b, b' ' | b'\t' | b'\n' | b'\r'))?;
    Some(*first == b'{')
}

/// Reads the facts. Of a body that is cut off or no JSON, those before the fault.
pub fn read(body: &[u8]) -> BodyFacts {
    let text = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    let mut found = Found::default();
    let mut scanner = Scanner::default();
    let taken = scanner.feed(text, &mut found);
    let complete = scanner.is_done() && text[taken..].iter().all(u8::is_ascii_whitespace);
    let understood = complete && found.object_at.is_some();
    let model = if found.model.is_empty() { &found.model_alike } else { &found.model };
    BodyFacts {
        understood,
        model: decode(model, TEXT_BYTES_MAX),
        prompt_bytes: found.prompt_bytes,
        max_output_tokens: if found.unbounded { 0 } else { found.max_output_tokens },
        include_usage: found.edit().filter(|_| understood).map(|edit| edit.moved(body.len() - text.len())),
    }
}

/// What is in a body.
#[derive(Debug, Default)]
struct Found {
    model: Vec<u8>,
    /// The same under a name in another case.
    model_alike: Vec<u8>,
    prompt_bytes: u64,
    /// The largest bound of the output.
    max_output_tokens: u64,
    /// One of them is none.
    unbounded: bool,
    /// The source that is read is a text, and no image.
    text_source: bool,
    tools_at: usize,
    object_at: Option<usize>,
    /// `stream` is true; how often it is named.
    stream: bool,
    streams: u32,
    options: Options,
    options_named: u32,
}

/// What `stream_options` is.
#[derive(Clone, Debug, Default)]
enum Options {
    #[default]
    Absent,
    Null(Range<usize>),
    Object {
        at: usize,
        empty: bool,
        /// `include_usage`, where it is false or null.
        off: Option<Range<usize>>,
        /// It is true, or nothing that is understood.
        on: bool,
    },
    Other,
}

impl Found {
    fn edit(&self) -> Option<Edit> {
        if !self.stream || self.streams != 1 || self.options_named > 1 {
            return None;
        }
        let (at, by) = match &self.options {
            Options::Absent => {
                let at = self.object_at? + 1;
                (at..at, r#""stream_options":{"include_usage":true},"#)
            }
            Options::Null(at) => (at.clone(), r#"{"include_usage":true}"#),
            Options::Object { on: true, .. } | Options::Other => return None,
            Options::Object { off: Some(at), .. } => (at.clone(), "true"),
            Options::Object { at, empty: true, .. } => (at + 1..at + 1, r#""include_usage":true"#),
            Options::Object { at, empty: false, .. } => (at + 1..at + 1, r#""include_usage":true,"#),
        };
        Some(Edit { at, by })
    }

    /// The last counts, as with the parsers of servers; one that is no text is none.
    fn model(&mut self, path: &[Key], event: &Event<'_>) {
        let model = match path {
            [Key::Model] => &mut self.model,
            [Key::ModelAlike] => &mut self.model_alike,
            _ => return,
        };
        match event {
            Event::Part(_) | Event::Close { .. } => {}
            Event::Text(head) => *model = head.to_vec(),
            Event::Open { .. } | Event::Number(_) | Event::Word { .. } => model.clear(),
        }
    }

    fn options(&mut self, path: &[Key], event: &Event<'_>) {
        match (path, event) {
            ([], Event::Open { array: false, at }) => self.object_at = Some(*at),
            ([Key::Stream], Event::Close { .. } | Event::Part(_)) => {}
            ([Key::Stream], event) => {
                self.streams += 1;
                self.stream = matches!(event, Event::Word { word: Word::True, .. });
            }
            ([Key::StreamOptions], Event::Close { .. } | Event::Part(_)) => {}
            ([Key::StreamOptions], event) => {
                self.options_named += 1;
                self.options = match event {
                    Event::Word { word: Word::Null, at, end, .. } => Options::Null(*at..*end),
                    Event::Open { array: false, at } => {
                        Options::Object { at: *at, empty: true, off: None, on: false }
                    }
                    _ => Options::Other,
                };
            }
            ([Key::StreamOptions, name, ..], event) => {
                let Options::Object { empty, off, on, .. } = &mut self.options else { return };
                *empty = false;
                if *name == Key::IncludeUsage {
                    match event {
                        Event::Word { word: Word::False | Word::Null, at, end, .. } if off.is_none() => {
                            *off = Some(*at..*end);
                        }
                        _ => *on = true,
                    }
                }
            }
            _ => {}
        }
    }
}

/// Whether a text at this place is part of the prompt.
fn is_prompt(path: &[Key]) -> bool {
    use Key::*;
    let [root, below @ ..] = path else { return false };
    match path {
        // Of earlier calls of tools: whatever their arguments and results have.
        [Messages, Item, Content, Item, Input, ..]
        | [Contents, Item, Parts, Item, Function, Args, ..]
        | [Contents, Item, Parts, Item, FunctionResponse, Response, ..] => return true,
        _ => {}
    }
    let within = |key: &Key| {
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
    let ranking = [Documents, Query, Texts];
    (roots.contains(root) || ranking.contains(root)) && below.iter().all(within)
}

impl Sink for Found {
    fn on(&mut self, path: &[Key], event: Event<'_>) {
        use Key::*;
        self.options(path, &event);
        self.model(path, &event);
        match event {
            Event::Part(piece) if is_prompt(path) => self.prompt_bytes += piece.len() as u64,
            // Anthropic's documents; images are named in the same way.
            Event::Open { .. } if path.ends_with(&[Source]) => self.text_source = false,
            Event::Text(head) if path.ends_with(&[Source, Type]) => self.text_source = head == b"text",
            Event::Part(piece) if self.text_source && is_source(path) => {
                self.prompt_bytes += piece.len() as u64;
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

/// Whether this is the data of a document in a message, also of one that is the result of a tool.
fn is_source(path: &[Key]) -> bool {
    use Key::{Content, Data, Item, Messages, Source};
    matches!(path, [Messages, Item, below @ .., Source, Data] if below.iter().all(|key| matches!(key, Content | Item)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_the_common_shapes() {
        let cases: [(&str, (&str, u64, u64)); 32] = [
            (r#"{"model":"m","messages":[{"role":"user","content":"hello"}],"max_tokens":7}"#, ("m", 5, 7)),
            (
                r#"{"model":"m","messages":[{"content":[{"type":"text","text":"abc"},{"type":"image"}]}]}"#,
                ("m", 3, 0),
            ),
            (r#"{"model":"m","prompt":["ab","cd"],"max_completion_tokens":9,"max_tokens":1}"#, ("m", 4, 9)),
            (r#"{"model":"m","max_tokens":1,"max_completion_tokens":9}"#, ("m", 0, 9)),
            (r#"{"model":"m","input":"abcd","instructions":"xy","max_output_tokens":3}"#, ("m", 6, 3)),
            (
                r#"{"model":"m","input":[{"role":"user","content":[{"type":"input_text","text":"abc"}]}]}"#,
                ("m", 3, 0),
            ),
            (r#"{"model":"m","input":[{"type":"function_call_output","output":"abc"}]}"#, ("m", 3, 0)),
            (r#"{"model":"m","input":[1,2,3]}"#, ("m", 12, 0)),
            (
                r#"{"system":[{"text":"ab"}],"messages":[{"content":[{"content":[{"text":"c"}]}]}]}"#,
                ("", 3, 0),
            ),
            (r#"{"messages":[{"tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}]}"#, ("", 2, 0)),
            (r#"{"tools":[{"a":1}],"messages":[]}"#, ("", 9, 0)),
            (
                r#"{"contents":[{"parts":[{"text":"abc"},{"inlineData":{"data":"AAAA"}}]}],"generationConfig":{"maxOutputTokens":5}}"#,
                ("", 3, 5),
            ),
            (
                r#"{"model":"q","input":{"messages":[{"content":"abc"}]},"parameters":{"max_tokens":4}}"#,
                ("q", 3, 4),
            ),
            (r#"{"model":"q","input":{"prompt":"abcd"}}"#, ("q", 4, 0)),
            (r#"{"model":"o","prompt":"ab","options":{"num_predict":8}}"#, ("o", 2, 8)),
            (r#"{"model":"o","prompt":"ab","options":{"num_predict":-1}}"#, ("o", 2, 0)),
            (r#"{"model":7,"max_tokens":"many"}"#, ("", 0, 0)),
            // Which of them the server heeds is not known.
            (r#"{"max_tokens":1,"options":{"num_predict":9999}}"#, ("", 0, 9999)),
            (r#"{"max_output_tokens":9,"max_tokens":7,"max_tokens":8}"#, ("", 0, 9)),
            (r#"{"max_tokens":1,"options":{"num_predict":-1}}"#, ("", 0, 0)),
            (r#"{"max_tokens":2e3}"#, ("", 0, 2000)),
            (
                r#"{"messages":[{"content":[{"type":"tool_use","name":"f","input":{"city":"Rome","days":["Mo"]}}]}]}"#,
                ("", 6, 0),
            ),
            (
                r#"{"messages":[{"content":[{"type":"document","source":{"type":"text","media_type":"text/plain","data":"abcd"}}]}]}"#,
                ("", 4, 0),
            ),
            (
                r#"{"messages":[{"content":[{"source":{"type":"text","data":"a"}},{"source":{"data":"AAAA","type":"base64"}}]}]}"#,
                ("", 1, 0),
            ),
            (
                r#"{"messages":[{"content":[{"source":{"type":"content","content":[{"type":"text","text":"abc"}]}}]}]}"#,
                ("", 3, 0),
            ),
            (
                r#"{"contents":[{"parts":[{"functionCall":{"name":"f","args":{"a":"bc"}}},{"functionResponse":{"name":"f","response":{"x":{"y":"abc"}}}}]}]}"#,
                ("", 5, 0),
            ),
            (r#"{"query":"ab","documents":["cde",{"text":"f","title":"t"}]}"#, ("", 6, 0)),
            (r#"{"query":"ab","texts":["cde"]}"#, ("", 5, 0)),
            (r#"{"input":{"query":"ab","documents":["cde"]}}"#, ("", 5, 0)),
            ("[1,2]", ("", 0, 0)),
            (r#"{"model":"m","messages":[{"content":"cut of"#, ("m", 6, 0)),
            (r#"{"messages":[{"content":"\u00e9\n"}]}"#, ("", 3, 0)),
        ];
        for (body, (model, prompt_bytes, max_output_tokens)) in cases {
            let understood =
                serde_json::from_str::<serde_json::Value>(body).is_ok_and(|value| value.is_object());
            let model = model.into();
            let facts = BodyFacts { understood, model, prompt_bytes, max_output_tokens, include_usage: None };
            assert_eq!(read(body.as_bytes()), facts, "{body}");
        }
    }

    #[test]
    fn the_model_is_the_one_a_server_would_take() {
        let cases = [
            (r#"{"model":"a","model":"b"}"#, "b"),
            (r#"{"model":"a","model":null}"#, ""),
            (r#"{"model":"a","model":{"model":"b"}}"#, ""),
            (r#"{"mod\u0065l":"a"}"#, "a"),
            (r#"{"Model":"a"}"#, "a"),
            (r#"{"MODEL":"a","mOdEl":"b"}"#, "b"),
            (r#"{"model":"a","Model":"b"}"#, "a"),
            (r#"{"Model":"b","model":"a"}"#, "a"),
            (r#"{"Model":"b","model":null}"#, "b"),
            (r#"{"x":{"model":"a"}}"#, ""),
            ("\u{feff} {\"model\":\"a\"}", "a"),
        ];
        for (body, model) in cases {
            let facts = read(body.as_bytes());
            assert_eq!((facts.model.as_str(), facts.understood), (model, true), "{body}");
        }
    }

    #[test]
    fn what_another_reader_may_understand_otherwise_is_not_understood() {
        let utf16: Vec<u8> = r#"{"model":"a"}"#.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let cases: [&[u8]; 9] = [
            br#"{"model":"a"}{"model":"b"}"#,
            br#"{"model":"a"} x"#,
            br#"{"model":"a""#,
            br#"{"model":"a",}"#,
            br#"{"model":"a",/**/"model":"b"}"#,
            br#"[{"model":"a"}]"#,
            b"\"model\"",
            b"",
            &utf16,
        ];
        for body in cases {
            assert!(!read(body).understood, "{}", body.escape_ascii());
        }
    }

    #[test]
    fn an_object_shows_in_its_beginning() {
        let cases: [(&[u8], Option<bool>); 9] = [
            (b"", None),
            (b" \r\n\t", None),
            (b" {", Some(true)),
            (b"\xef\xbb", None),
            (b"\xef\xbb\xbf", None),
            (b"\xef\xbb\xbf{", Some(true)),
            (b"\xef\xbbx", Some(false)),
            (b"[", Some(false)),
            (b"--boundary", Some(false)),
        ];
        for (head, expected) in cases {
            assert_eq!(begins_as_object(head), expected, "{}", head.escape_ascii());
        }
    }

    #[test]
    fn a_long_model_name_is_cut() {
        let body = format!(r#"{{"model":"{}"}}"#, "é".repeat(300));
        assert_eq!(read(body.as_bytes()).model.len(), 256);
        // Each wrong byte is replaced by three.
        let body = [&b"{\"model\":\""[..], &[0xff; 255], b"a\"}"].concat();
        assert_eq!(read(&body).model.len(), 255);
    }

    #[test]
    fn a_stream_is_made_to_tell_its_usage() {
        let cases = [
            (
                r#" { "stream" : true, "x": 1.50 } "#,
                Some(r#" {"stream_options":{"include_usage":true}, "stream" : true, "x": 1.50 } "#),
            ),
            (
                r#"{"stream_options":{},"stream":true}"#,
                Some(r#"{"stream_options":{"include_usage":true},"stream":true}"#),
            ),
            (
                r#"{"stream":true,"stream_options": {"include_obfuscation":false}}"#,
                Some(
                    r#"{"stream":true,"stream_options": {"include_usage":true,"include_obfuscation":false}}"#,
                ),
            ),
            (
                r#"{"stream":true,"stream_options":null}"#,
                Some(r#"{"stream":true,"stream_options":{"include_usage":true}}"#),
            ),
            (
                r#"{"stream":true,"stream_options":{"include_usage":false,"a":1}}"#,
                Some(r#"{"stream":true,"stream_options":{"include_usage":true,"a":1}}"#),
            ),
            (
                "\u{feff}{\"stream\":true}",
                Some("\u{feff}{\"stream_options\":{\"include_usage\":true},\"stream\":true}"),
            ),
            (r#"{"stream":true,"stream_options":{"include_usage":true}}"#, None),
            (r#"{"stream":true,"stream_options":{"include_usage":1}}"#, None),
            (r#"{"stream":true,"stream_options":7}"#, None),
            (r#"{"stream":true,"stream":true}"#, None),
            (r#"{"stream":true,"stream_options":{},"stream_options":{}}"#, None),
            (r#"{"stream":false}"#, None),
            (r#"{"stream":"true"}"#, None),
            (r#"{"messages":[{"stream":true}]}"#, None),
            (r#"{"stream":true"#, None),
            (r#"{"stream":true}x"#, None),
            (r#"[{"stream":true}]"#, None),
        ];
        for (body, expected) in cases {
            let edit = read(body.as_bytes()).include_usage;
            let changed = edit.as_ref().map(|edit| edit.apply(body.as_bytes()).unwrap());
            assert_eq!(changed.as_deref(), expected.map(str::as_bytes), "{body}");
        }
        assert_eq!(Edit { at: 3..9, by: "" }.apply(b"short"), None);
    }
}
