mod charged;
mod forms;
mod samples;

use proptest::{collection::vec, prelude::*};
use samples::SAMPLES;

use super::*;

/// Returns the format of a file, by the end of its name.
fn format(name: &str) -> Format {
    match name.rsplit_once('.').map(|(_, end)| end) {
        Some("ndjson") => Format::Lines,
        Some("sse") => Format::Events,
        Some("json") => Format::Json,
        Some("ws") => Format::WebSocket,
        _ => Format::Unknown,
    }
}

fn read(name: &str, chunks: impl IntoIterator<Item = impl AsRef<[u8]>>, end: bool) -> (Usage, u64) {
    let mut reader = UsageReader::new(format(name));
    for chunk in chunks {
        reader.feed(chunk.as_ref());
    }
    if end {
        reader.end();
    }
    assert!(reader.held_bytes() <= 1024);
    (reader.usage(), reader.faults())
}

/// Returns whether a response without nulls states how much of its prompt was cached.
fn states_cached(body: &str) -> bool {
    ["cached_tokens", "cache_read", "cacheRead", "cachedContent", "cache_hit", "cache_n\"", "total_cached"]
        .iter()
        .any(|name| body.contains(name))
}

#[test]
fn usage_of_every_api_is_read() {
    for sample in &SAMPLES {
        let tokens = sample.tokens.map(|(input, cached_input, output, reasoning)| Tokens {
            input,
            output,
            cached_input,
            reasoning,
            // Bedrock encodes its events.
            cached_input_stated: cached_input > 0 || states_cached(&String::from_utf8_lossy(sample.body)),
        });
        let expected = Usage {
            model: sample.model.into(),
            is_final: tokens.is_some(),
            tokens,
            total_tokens: 0,
            is_error: false,
            output_bytes: sample.text.len() as u64,
            body_read: true,
            form_unknown: false,
        };
        assert_eq!(read(sample.name, [sample.body], true), (expected, 0), "{}", sample.name);
    }
}

#[test]
fn a_stream_that_announced_its_end_is_final() {
    for sample in &SAMPLES {
        assert_eq!(
            read(sample.name, [sample.body], false).0.is_final,
            sample.tokens.is_some(),
            "{}",
            sample.name
        );
    }
}

#[test]
fn a_split_at_any_byte_does_not_change_the_usage() {
    for sample in &SAMPLES {
        let whole = read(sample.name, [sample.body], true);
        assert_eq!(read(sample.name, sample.body.chunks(1), true), whole, "{}", sample.name);
    }
}

#[test]
fn all_line_endings_give_the_same_usage() {
    for sample in SAMPLES.iter().filter(|s| s.name.ends_with(".sse")) {
        let whole = read(sample.name, [sample.body], true);
        let text = String::from_utf8(sample.body.to_vec()).unwrap();
        for end in ["\r\n", "\r"] {
            let other = text.replace('\n', end);
            assert_eq!(read(sample.name, [&other], true), whole, "{}", sample.name);
            assert_eq!(read(sample.name, other.as_bytes().chunks(1), true), whole, "{}", sample.name);
        }
        let bom = [b"\xef\xbb\xbf\n", sample.body].concat();
        assert_eq!(read(sample.name, bom.chunks(2), true), whole, "{}", sample.name);
    }
}

#[test]
fn no_prefix_reports_more_than_the_whole() {
    for sample in &SAMPLES {
        let whole = read(sample.name, [sample.body], true).0;
        let mut before = Usage::default();
        for end in 0..sample.body.len() {
            let (usage, _) = read(sample.name, [&sample.body[..end]], false);
            // DashScope is an exception while it is unknown whether its text is incremental.
            if !sample.name.starts_with("dashscope") {
                assert!(before.output_bytes <= usage.output_bytes, "{} at {end}", sample.name);
            }
            assert!(usage.output_bytes <= whole.output_bytes, "{} at {end}", sample.name);
            let tokens = usage.tokens.unwrap_or_default();
            let reported = whole.tokens.unwrap_or_default();
            assert!(
                tokens.input <= reported.input && tokens.output <= reported.output,
                "{} at {end}",
                sample.name
            );
            assert!(!usage.is_final || usage.tokens == whole.tokens, "{} at {end}", sample.name);
            assert!(!usage.form_unknown, "{} at {end}", sample.name);
            before = usage;
        }
    }
}

#[test]
fn a_truncated_stream_reports_what_it_carried() {
    let body = include_bytes!("../../../tests/fixtures/anthropic.sse");
    let at = body.windows(8).position(|w| w == b"message_").unwrap();
    let hello = body.windows(7).position(|w| w == b"\"Hello\"").unwrap();
    assert_eq!(read("anthropic.sse", [&body[..at + 20]], false).0.tokens, None);
    let (usage, _) = read("anthropic.sse", [&body[..hello + 4]], false);
    let tokens = Tokens { input: 135, output: 1, cached_input: 100, reasoning: 0, cached_input_stated: true };
    assert_eq!((usage.tokens, usage.is_final), (Some(tokens), false));
    assert_eq!(usage.output_bytes, "Let me thinkHel".len() as u64);
}

#[test]
fn invalid_data_is_skipped_and_counted() {
    let good = r#"{"done":true,"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;
    let cases: [(&str, String, u64, bool); 9] = [
        ("a.sse", format!("data: {{\"usage\":{{\"prompt_tokens\":77]\n\ndata: {good}\n\n"), 1, true),
        ("a.sse", format!("data: {{\"a\":1\n\ndata: {good}\n\n"), 1, true),
        (
            "a.sse",
            format!("data: hello\n\nevent: x\n\ndata\n\ndatax: 1\n\ndata:[1]\n\ndata: {good}\n\n"),
            0,
            true,
        ),
        ("a.sse", "data: {}x\n\ndata: [DONE]\n\n".into(), 1, false),
        ("a.ndjson", format!("{{\"a\":}}\n}}}}\n{good}\n"), 2, true),
        ("a.json", format!("{{\"a\":}}\n{good}\n"), 1, false),
        ("a.json", "<html>".into(), 0, false),
        ("a.json", String::new(), 0, false),
        ("a.json", "  \n".into(), 0, false),
    ];
    for (name, body, faults, reported) in cases {
        let (usage, found) = read(name, [&body], true);
        assert_eq!((found, usage.tokens.is_some(), usage.is_final), (faults, reported, reported), "{body}");
    }
}

#[test]
fn one_event_may_have_several_data_lines() {
    let body = ": hello\nretry: 5\ndata: {\"usage\":\ndata:{\"prompt_tokens\":1\ndata: }}\nid: 3\n\n";
    assert_eq!(read("a.sse", [body], true).0.tokens.unwrap().input, 1);
}

#[test]
fn the_last_event_may_lack_its_blank_line_but_not_its_end() {
    for (body, is_final) in [
        ("data: {\"done\":true,\"usage\":{\"prompt_tokens\":1,\"total_tokens\":1}}\n", true),
        ("data: {\"done\":true,\"usage\":{\"prompt_tokens\":1,\"total_tokens\":1}}", true),
        ("data: {\"done\":true,\"usage\":{\"prompt_tokens\":1,\"total_tokens\":1}", false),
    ] {
        assert_eq!(read("a.sse", [body], true).0.is_final, is_final, "{body}");
    }
}

#[test]
fn usage_under_other_names_is_read() {
    let tokens = |body: &str| read("a.json", [body], true).0.tokens.unwrap();
    let cases = [
        // DeepSeek, Moonshot, Groq.
        (r#"{"usage":{"prompt_tokens":9,"completion_tokens":3,"prompt_cache_hit_tokens":4}}"#, (9, 4, 3, 0)),
        (r#"{"usage":{"prompt_tokens":9,"completion_tokens":3,"cached_tokens":5}}"#, (9, 5, 3, 0)),
        (r#"{"choices":[{"usage":{"prompt_tokens":9,"completion_tokens":3}}]}"#, (9, 0, 3, 0)),
        (r#"{"x_groq":{"usage":{"prompt_tokens":9,"completion_tokens":3}}}"#, (9, 0, 3, 0)),
        // LiteLLM adds Anthropic's names to OpenAI's names. OpenAI's prompt count is the whole prompt.
        (r#"{"usage":{"prompt_tokens":9,"completion_tokens":3,"cache_read_input_tokens":4}}"#, (9, 4, 3, 0)),
        // xAI excludes reasoning tokens from the completion tokens.
        (
            r#"{"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":19,"completion_tokens_details":{"reasoning_tokens":7}}}"#,
            (9, 0, 10, 7),
        ),
        // Counts that are too large stay within bounds.
        (
            r#"{"usage":{"prompt_tokens":18446744073709551615999,"cached_tokens":18446744073709551615,"completion_tokens":1.5,"completion_tokens_details":{"reasoning_tokens":7}}}"#,
            (u64::MAX, u64::MAX, 8, 7),
        ),
        // The total reveals reasoning tokens that are not reported.
        (r#"{"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":19}}"#, (9, 0, 10, 0)),
        (r#"{"usage":{"total_tokens":19,"prompt_tokens":9}}"#, (9, 0, 10, 0)),
        (
            r#"{"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":19,"completion_tokens_details":{"reasoning_tokens":2}}}"#,
            (9, 0, 3, 2),
        ),
        (r#"{"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":5}}"#, (9, 0, 3, 0)),
        (r#"{"usage":{"input_tokens":9,"output_tokens":3,"total_tokens":99}}"#, (9, 0, 3, 0)),
        (r#"{"usage":{"completion_tokens":3,"total_tokens":12}}"#, (9, 0, 3, 0)),
        // DashScope embeddings.
        (r#"{"output":{"embeddings":[{"embedding":[0.1]}]},"usage":{"total_tokens":26}}"#, (26, 0, 0, 0)),
        (r#"{"usage":{"prompt_tokens":1e3,"completion_tokens":2.5E1}}"#, (1000, 0, 25, 0)),
    ];
    for (body, (input, cached_input, output, reasoning)) in cases {
        let cached_input_stated = states_cached(body);
        let expected = Tokens { input, output, cached_input, reasoning, cached_input_stated };
        assert_eq!(tokens(body), expected, "{body}");
    }
}

/// A stated 0 means that the cache had nothing. Without a statement, that is unknown.
#[test]
fn a_cached_count_of_0_differs_from_none() {
    let stated = |name: &str, body: &str| read(name, [body], true).0.tokens.map(|t| t.cached_input_stated);
    let cases = [
        (
            r#"{"usage":{"prompt_tokens":9,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":0}}}"#,
            true,
        ),
        (
            r#"{"usage":{"prompt_tokens":9,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":null}}}"#,
            false,
        ),
        (r#"{"usage":{"prompt_tokens":9,"completion_tokens":3,"prompt_tokens_details":null}}"#, false),
        (r#"{"usage":{"prompt_tokens":9,"completion_tokens":3}}"#, false),
        (r#"{"usage":{"prompt_tokens":9,"completion_tokens":3,"prompt_cache_hit_tokens":0}}"#, true),
        (r#"{"usage":{"prompt_tokens":9,"completion_tokens":3,"cached_tokens":0}}"#, true),
        (
            r#"{"usage":{"input_tokens":9,"output_tokens":3,"input_tokens_details":{"cached_tokens":0}}}"#,
            true,
        ),
        (r#"{"usage":{"input_tokens":9,"output_tokens":3,"cache_read_input_tokens":0}}"#, true),
        (r#"{"usage":{"input_tokens":9,"output_tokens":3,"cache_creation_input_tokens":4}}"#, false),
        (r#"{"usage":{"inputTokens":9,"outputTokens":3,"cacheReadInputTokens":0}}"#, true),
        (
            r#"{"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":3,"cachedContentTokenCount":0}}"#,
            true,
        ),
        (r#"{"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":3}}"#, false),
        (r#"{"content":"x","timings":{"prompt_n":9,"predicted_n":3,"cache_n":0}}"#, true),
    ];
    for (body, expected) in cases {
        assert_eq!(stated("a.json", body), Some(expected), "{body}");
    }
    // The counts of a stream come in several events.
    let stream = charged::events(&[
        r#"{"type":"message_start","message":{"usage":{"input_tokens":9,"cache_read_input_tokens":0,"output_tokens":1}}}"#,
        r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":5}}"#,
        r#"{"type":"message_stop"}"#,
    ]);
    assert_eq!(stated("a.sse", &stream), Some(true));
}

#[test]
fn a_large_body_takes_constant_memory() {
    let mut reader = UsageReader::new(Format::Json);
    reader.feed(br#"{"data":[{"embedding":["#);
    for _ in 0..100_000 {
        reader.feed(b"-0.0123456789,");
    }
    reader.feed(br#"0]}],"choices":[{"message":{"content":""#);
    for _ in 0..100_000 {
        reader.feed("grün\\n".as_bytes());
    }
    reader.feed(br#""}}],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#);
    reader.end();
    let usage = reader.usage();
    assert_eq!((usage.output_bytes, usage.tokens.unwrap().input, usage.is_final), (600_000, 3, true));
    assert_eq!(reader.held_bytes(), 0);
    assert!(size_of::<UsageReader>() < 2048, "{}", size_of::<UsageReader>());
}

#[test]
fn a_model_name_is_cut_between_characters() {
    let body = format!(r#"{{"model":"{}"}}"#, "é".repeat(200));
    assert_eq!(read("a.json", [&body], true).0.model, "é".repeat(128));
    let body = format!(r#"{{"model":"a{}"}}"#, "é".repeat(200));
    assert_eq!(read("a.json", [&body], true).0.model, format!("a{}", "é".repeat(127)));
}

proptest! {
    /// The result does not depend on how the body is split, even if bytes are wrong.
    #[test]
    fn splits_do_not_matter(
        sample in 0..SAMPLES.len(),
        cuts in vec(any::<prop::sample::Index>(), 0..8),
        wrong in vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let sample = &SAMPLES[sample];
        let mut body = sample.body.to_vec();
        for (at, byte) in &wrong {
            let at = at.index(body.len());
            body[at] = *byte;
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len())).collect();
        cuts.extend([0, body.len()]);
        cuts.sort_unstable();
        let chunks = cuts.windows(2).map(|cut| &body[cut[0]..cut[1]]);
        prop_assert_eq!(read(sample.name, chunks, true), read(sample.name, [&body], true));
    }

    #[test]
    fn garbage_does_not_panic(body in vec(any::<u8>(), 0..300), lines in any::<bool>()) {
        read(if lines { "a.ndjson" } else { "a.json" }, [&body], true);
        let event = [b"data: {", &*body].concat();
        read("a.sse", [&event], true);
    }
}

/// The sidecar estimates counts that are not reported. If the usage were final, the sidecar would charge
/// them as zero.
#[test]
fn usage_is_final_only_if_input_and_output_are_reported() {
    let cases = [
        (r#"{"object":"list","usage":{"total_tokens":26}}"#, true),
        (r#"{"object":"list","usage":{"prompt_tokens":9}}"#, true),
        // The form is unknown, so the response may contain text.
        (r#"{"usage":{"prompt_tokens":9}}"#, false),
        (r#"{"answer":"hi","usage":{"prompt_tokens":0,"completion_tokens":0}}"#, false),
        (r#"{"answer":"hi","usage":{"prompt_tokens":9,"completion_tokens":0}}"#, true),
        (r#"{"choices":[{"text":"hi"}],"usage":{"prompt_tokens":9}}"#, false),
        (r#"{"choices":[{"text":"hi"}],"usage":{"prompt_tokens":9,"total_tokens":11}}"#, true),
        (r#"{"usage":{"completion_tokens":9}}"#, false),
        (r#"{"usage":{"prompt_tokens":-1,"completion_tokens":9}}"#, false),
        (r#"{"usage":{"prompt_tokens":1e3,"completion_tokens":9}}"#, true),
        // Ollama with a cached prompt.
        (r#"{"response":"hi","done":true,"eval_count":9}"#, false),
        (r#"{"response":"hi","done":true,"eval_count":9,"prompt_eval_count":3}"#, true),
    ];
    for (body, is_final) in cases {
        let usage = read("a.json", [body], true).0;
        assert_eq!((usage.is_final, usage.tokens.is_some()), (is_final, true), "{body}");
    }
}

/// `body_read` shows the sidecar that a list of models contains no generated text, so that it is not charged as a chat.
#[test]
fn body_read_requires_a_complete_body_of_a_known_form() {
    let cases = [
        ("a.json", r#"{"object":"list","data":[{"id":"m"}]}"#, true),
        ("a.json", r#"{"results":[{"index":0,"relevance_score":0.9}]}"#, true),
        ("a.json", r#"{"object":"list""#, false),
        ("a.json", r#"{"a":1}x"#, false),
        ("a.json", "<html>", false),
        ("a.json", "\"text\"", false),
        ("a.json", "", false),
        ("a.json", r#"{"a":1}"#, false),
        ("a.sse", "data: {\"text\":\"\"}\n\ndata: [DONE]\n\n", true),
        ("a.sse", "data: {\"a\":1}\n\ndata: [DONE]\n\n", false),
        ("a.sse", "data: {\"a\":1}\n\ndata: text\n\n", false),
        ("a.sse", "data: {\"a\":1}\n\ndata: {\"a\n\n", false),
        ("a.sse", ": ping\n\n", false),
        ("a.ndjson", "{\"text\":\"\"}\n{\"a\":2}", true),
        ("a.ndjson", "{\"a\":1}\n{\"a\":}\n", false),
    ];
    for (name, body, body_read) in cases {
        assert_eq!(read(name, [body], true).0.body_read, body_read, "{body}");
        assert!(!read(name, [body], false).0.body_read, "{body}");
    }
}
