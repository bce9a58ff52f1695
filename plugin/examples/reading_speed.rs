//! Measures how fast the plugin reads responses, and requests with and without hashes of their prompts:
//!
//! ```text
//! cargo run -p evenkeel-plugin --profile plugin --example reading_speed
//! ```
//!
//! With `--target wasm32-wasip1`, the result is a module for any WASI runtime. Node.js has the same engine as Envoy.

use std::time::Instant;

use evenkeel_plugin::{
    request_body::{BodyReader, PrefixSettings},
    usage::{Format, UsageReader},
};

/// Size of a body and of its chunks, in bytes.
const BODY_BYTES: usize = 256 << 10;
const CHUNK_BYTES: usize = 4096;
/// The shortest of several runs counts, because other programs only make a run longer.
const RUNS: usize = 200;

const OPENAI: &str = r#"data: {"id":"chatcmpl-9","object":"chat.completion.chunk","created":1717171717,"model":"gpt-4o-mini","system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"content":" words"},"logprobs":null,"finish_reason":null}],"usage":null}"#;
const ANTHROPIC: &str = r#"event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" words"}}"#;
const GEMINI: &str = r#"data: {"candidates":[{"content":{"parts":[{"text":" words"}],"role":"model"},"index":0}],"usageMetadata":{"promptTokenCount":15,"totalTokenCount":15},"modelVersion":"gemini-2.5-flash"}"#;
const TEXT: &str = r#"The quick brown fox jumps over the lazy dog.\nIt barks, \"loudly\". "#;
const NUMBERS: &str = "-0.0123456789,0.00123,0.1";

/// Blocks of about 512 tokens.
const BLOCK_BYTES: u32 = 2048;
const HASHES_MAX: u32 = 128;
/// Size of a request. It is below [`BLOCK_BYTES`] times [`HASHES_MAX`], so that all of it is hashed.
const REQUEST_BYTES: usize = 256 << 10;

fn main() {
    responses();
    requests();
}

fn responses() {
    let events = |event: &str| format!("{event}\n\n").repeat(BODY_BYTES / event.len());
    let answer = |text: &str| {
        let text = text.repeat(BODY_BYTES / text.len());
        format!(r#"{{"choices":[{{"message":{{"content":"{text}"}}}}]}}"#)
    };
    let numbers = vec![NUMBERS; BODY_BYTES / NUMBERS.len()].join(",");
    let bodies = [
        ("OpenAI stream", events(OPENAI)),
        ("Anthropic stream", events(ANTHROPIC)),
        ("Gemini stream", events(GEMINI)),
        ("text with escapes", answer(TEXT)),
        ("text without escapes", answer("words ")),
        ("embedding", format!(r#"{{"object":"list","data":[{{"embedding":[{numbers}]}}]}}"#)),
    ];
    for (name, body) in bodies {
        let kb = body.len() as f64 / 1024.0;
        let ns = (0..RUNS).map(|_| read(body.as_bytes())).fold(f64::MAX, f64::min);
        println!("{name}: {:.0} ns per KB", ns / kb);
    }
}

fn requests() {
    let message = |text: &str| format!(r#"{{"role":"user","content":"{text}"}}"#);
    let chat = |messages: &str| {
        let messages = vec![messages; REQUEST_BYTES / messages.len()].join(",");
        format!(r#"{{"model":"m","messages":[{messages}]}}"#)
    };
    let part = r#"{"type":"text","text":"words"}"#;
    let tool = r#"{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"city":{"type":"string","description":"Name of a city"},"days":{"type":"number"}},"required":["city"]}}}"#;
    let image = format!("data:image/png;base64,{}", "iVBORw0KGgo".repeat(REQUEST_BYTES / 20));
    let tools = vec![tool; REQUEST_BYTES / tool.len()].join(",");
    let bodies = [
        ("long messages", chat(&message(&"words ".repeat(1000)))),
        ("messages with escapes", chat(&message(&TEXT.repeat(60)))),
        ("short messages", chat(&message("words"))),
        ("short parts", chat(&format!(r#"{{"role":"user","content":[{}]}}"#, [part; 50].join(",")))),
        ("tools", format!(r#"{{"model":"m","tools":[{tools}]}}"#)),
        (
            "image",
            chat(&format!(
                r#"{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"{image}"}}}}]}}"#
            )),
        ),
    ];
    for (name, body) in bodies {
        let kb = body.len() as f64 / 1024.0;
        // The runs alternate, so that other programs slow both down.
        let mut ns = [f64::MAX; 2];
        for _ in 0..RUNS {
            for (ns, settings) in ns.iter_mut().zip([None, PrefixSettings::new(BLOCK_BYTES, HASHES_MAX)]) {
                *ns = ns.min(read_request(body.as_bytes(), settings));
            }
        }
        let [without, with] = ns.map(|ns| ns / kb);
        println!("request, {name}: {without:.0} ns per KB, {with:.0} with hashes");
    }
}

/// Reads a request. Returns the time in nanoseconds.
fn read_request(body: &[u8], settings: Option<PrefixSettings>) -> f64 {
    let start = Instant::now();
    let mut reader = BodyReader::new(settings);
    for chunk in body.chunks(CHUNK_BYTES) {
        reader.feed(chunk);
    }
    let summary = reader.summary();
    let ns = start.elapsed().as_nanos() as f64;
    assert!(summary.is_object);
    ns
}

/// Reads a body. Returns the time in nanoseconds.
fn read(body: &[u8]) -> f64 {
    let mut reader = UsageReader::new(Format::Unknown);
    let start = Instant::now();
    for chunk in body.chunks(CHUNK_BYTES) {
        reader.feed(chunk);
    }
    let ns = start.elapsed().as_nanos() as f64;
    assert_eq!(reader.faults(), 0);
    ns
}
