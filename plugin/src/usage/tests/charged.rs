//! The counts of single responses. The first of each kind is a response that was charged wrongly.

use super::*;

/// Reads a body whole and byte by byte, and compares the results.
pub(super) fn usage(name: &str, body: &[u8], end: bool) -> Usage {
    let (whole, _) = read(name, [body], end);
    assert_eq!(read(name, body.chunks(1), end).0, whole, "{}", body.escape_ascii());
    whole
}

/// Returns the events of a stream.
pub(super) fn events(data: &[&str]) -> String {
    data.iter().map(|data| format!("data: {data}\n\n")).collect()
}

/// Input, output, cached input, and reasoning.
type Tuple = (u64, u64, u64, u64);

pub(super) fn tuple(tokens: Option<Tokens>) -> Option<Tuple> {
    tokens.map(|tokens| (tokens.input, tokens.output, tokens.cached_input, tokens.reasoning))
}

/// Checks bodies of one JSON value: tokens (input, output, cached input, reasoning), and whether they are final.
fn check(cases: &[(&str, Tuple, bool)]) {
    for (body, tokens, is_final) in cases {
        let usage = usage("a.json", body.as_bytes(), true);
        assert_eq!((tuple(usage.tokens), usage.is_final), (Some(*tokens), *is_final), "{body}");
    }
}

#[test]
fn a_later_snapshot_replaces_a_group_of_counts() {
    let anthropic = |start: &str, delta: &str| {
        events(&[
            &format!(r#"{{"type":"message_start","message":{{"usage":{start}}}}}"#),
            &format!(r#"{{"type":"message_delta","delta":{{"stop_reason":"end_turn"}},"usage":{delta}}}"#),
            r#"{"type":"message_stop"}"#,
        ])
    };
    let openai = |first: &str, last: &str| {
        events(&[
            &format!(r#"{{"choices":[{{"delta":{{"content":"hi"}}}}],"usage":{first}}}"#),
            &format!(r#"{{"choices":[{{"delta":{{}},"finish_reason":"stop"}}],"usage":{last}}}"#),
            "[DONE]",
        ])
    };
    let cases = [
        (
            anthropic(
                r#"{"input_tokens":8834,"output_tokens":0}"#,
                r#"{"input_tokens":18,"output_tokens":426,"cache_read_input_tokens":8831}"#,
            ),
            (8849, 426, 8831, 0),
        ),
        (
            anthropic(
                r#"{"input_tokens":18,"cache_read_input_tokens":8831,"output_tokens":1}"#,
                r#"{"input_tokens":8834,"output_tokens":426}"#,
            ),
            (8834, 426, 0, 0),
        ),
        // The last snapshot reports no input, or only a part of it.
        (
            anthropic(
                r#"{"input_tokens":18,"cache_read_input_tokens":8831,"output_tokens":1}"#,
                r#"{"output_tokens":426}"#,
            ),
            (8849, 426, 8831, 0),
        ),
        (
            anthropic(
                r#"{"input_tokens":18,"output_tokens":1}"#,
                r#"{"cache_read_input_tokens":8831,"output_tokens":426}"#,
            ),
            (8849, 426, 8831, 0),
        ),
        // Zeros on either side.
        (
            anthropic(
                r#"{"input_tokens":0,"output_tokens":0}"#,
                r#"{"input_tokens":18,"output_tokens":426,"cache_read_input_tokens":8831}"#,
            ),
            (8849, 426, 8831, 0),
        ),
        (
            anthropic(
                r#"{"input_tokens":18,"cache_read_input_tokens":8831,"output_tokens":1}"#,
                r#"{"input_tokens":0,"cache_read_input_tokens":0,"output_tokens":426}"#,
            ),
            (8849, 426, 8831, 0),
        ),
        // A prompt that came from the cache as a whole.
        (
            anthropic(
                r#"{"input_tokens":8834,"output_tokens":1}"#,
                r#"{"input_tokens":0,"output_tokens":426,"cache_read_input_tokens":8834}"#,
            ),
            (8834, 426, 8834, 0),
        ),
        (
            openai(
                r#"{"prompt_tokens":900,"completion_tokens":1,"total_tokens":901}"#,
                r#"{"prompt_tokens":100,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":64}}"#,
            ),
            (100, 7, 64, 0),
        ),
        (
            openai(
                r#"{"prompt_tokens":9,"completion_tokens":8,"completion_tokens_details":{"reasoning_tokens":8}}"#,
                r#"{"prompt_tokens":9,"completion_tokens":6}"#,
            ),
            (9, 6, 0, 0),
        ),
    ];
    for (body, tokens) in cases {
        let usage = usage("a.sse", body.as_bytes(), true);
        assert_eq!((tuple(usage.tokens), usage.is_final), (Some(tokens), true), "{body}");
    }
}

/// A count early in a stream is a placeholder, and a stream without its regular end is not complete.
#[test]
fn a_count_is_final_only_at_the_end_of_a_stream() {
    let start = r#"{"type":"message_start","message":{"usage":{"input_tokens":9,"output_tokens":1}}}"#;
    let block = "x".repeat(800);
    let delta =
        format!(r#"{{"type":"content_block_delta","delta":{{"type":"text_delta","text":"{block}"}}}}"#);
    let error = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
    let mut deltas = vec![start];
    deltas.extend([delta.as_str(); 10]);
    let text = r#"{"choices":[{"delta":{"content":"0123456789"},"finish_reason":null}]}"#;
    let finish = r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#;
    let used = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4}}"#;
    let unused = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":0}}"#;
    let running = r#"{"choices":[{"delta":{"content":"0123456789"}}],"usage":{"prompt_tokens":9,"completion_tokens":4}}"#;
    let transcript = r#"{"type":"transcript.text.delta","delta":"0123456789"}"#;
    let transcribed =
        r#"{"type":"transcript.text.done","text":"0123456789","usage":{"input_tokens":9,"output_tokens":4}}"#;
    // Bedrock's events as a gateway sends them on.
    let converse = [
        r#"{"contentBlockDelta":{"delta":{"text":"0123456789"},"contentBlockIndex":0}}"#,
        r#"{"messageStop":{"stopReason":"end_turn"}}"#,
        r#"{"metadata":{"usage":{"inputTokens":9,"outputTokens":4,"totalTokens":13}}}"#,
    ];
    let broken = r#"{"error":{"message":"engine died","code":500}}"#;
    let failed = r#"{"choices":[{"delta":{"content":""},"finish_reason":"error"}],"error":{"code":502}}"#;
    // Body, clean end, bytes of text, output, final, error.
    let cases = [
        (events(&[&deltas[..], &[error]].concat()), true, 8000, 1, false, true),
        (
            events(&deltas)
                .replace("data: {\"type\":\"message_start", "event: error\ndata: {\"type\":\"message_start"),
            true,
            8000,
            1,
            false,
            true,
        ),
        (events(&deltas), true, 8000, 1, false, false),
        (events(&[&deltas[..], &[r#"{"type":"message_stop"}"#]].concat()), true, 8000, 1, false, false),
        (events(&[unused, text, text]), false, 20, 0, false, false),
        (events(&[unused, text, finish, "[DONE]"]), true, 10, 0, false, false),
        (events(&[used, text, text]), true, 20, 4, false, false),
        (events(&[text, used]), true, 10, 4, false, false),
        (events(&[text, finish, used]), false, 10, 4, true, false),
        (events(&[text, used, "[DONE]"]), false, 10, 4, true, false),
        (events(&[running, running]), true, 20, 4, false, false),
        (events(&[running, finish]), true, 10, 4, true, false),
        (events(&[transcript, transcribed]), true, 10, 4, true, false),
        (events(&[transcribed, transcript]), true, 10, 4, false, false),
        (events(&converse), true, 10, 4, true, false),
        (events(&converse[1..]), true, 0, 4, true, false),
        (events(&converse[..1]) + &events(&converse[2..]), true, 10, 4, false, false),
        (events(&[running, finish, running]), true, 20, 4, false, false),
        (events(&[running, broken]), true, 10, 4, false, true),
        (events(&[running, broken, "[DONE]"]), true, 10, 4, false, true),
        (events(&[running, failed, "[DONE]"]), true, 10, 4, false, true),
        (format!("{}event: error\ndata: upstream\n\n", events(&[running, finish])), true, 10, 4, false, true),
        (format!("{}event:error\n", events(&[running, finish])), true, 10, 4, false, true),
        (format!("{}event: errors\n", events(&[running, finish])), true, 10, 4, true, false),
    ];
    for (body, end, bytes, output, is_final, is_error) in cases {
        let usage = usage("a.sse", body.as_bytes(), end);
        let (tokens, shown) = (usage.tokens.unwrap(), body.get(body.len().saturating_sub(300)..));
        assert_eq!((usage.output_bytes, tokens.output), (bytes, output), "{shown:?}");
        assert_eq!((usage.is_final, usage.is_error), (is_final, is_error), "{shown:?}");
    }
}

/// Some servers write no blank lines, and many clients read such streams.
#[test]
fn events_need_no_blank_line_between_them() {
    let text = r#"{"choices":[{"delta":{"content":"0123456789"}}]}"#;
    let finish = r#"{"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":4}}"#;
    for (lines, end, bytes, is_final) in [
        (&[text, text, finish, "[DONE]"][..], true, 20, true),
        (&[text, text, finish], true, 20, true),
        (&[text, text, "[DONE]"], true, 20, false),
        (&[text, &text[..45]], false, 20, false),
    ] {
        let body: String = lines.iter().map(|line| format!("data: {line}\r\n")).collect();
        let usage = usage("a", body.as_bytes(), end);
        assert_eq!((usage.output_bytes, usage.is_final), (bytes, is_final), "{body}");
    }
}

#[test]
fn a_line_or_array_without_its_end_is_not_final() {
    let line = r#"{"response":"0123456789","eval_count":3,"prompt_eval_count":9,"done":false}"#;
    let done = r#"{"response":"","eval_count":4,"prompt_eval_count":9,"done":true}"#;
    let error = r#"{"error":"llama runner process has terminated"}"#;
    let gemini = r#"{"candidates":[{"content":{"parts":[{"text":"0123456789"}]}}],"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":4}}"#;
    let tgi = r#"{"generated_text":"hi","details":{"generated_tokens":1,"input_length":2}}"#;
    let cases = [
        ("a.ndjson", format!("{line}\n{done}\n"), true),
        ("a.ndjson", format!("{line}\n"), false),
        ("a.ndjson", format!("{line}\n{error}\n"), false),
        // The type does not say that the body has lines.
        ("a", format!("{line}\n{done}\n"), true),
        ("a", format!("{line}\n{line}\n"), false),
        ("a", format!("\u{1e}{line}\n\u{1e}{done}\n"), true),
        ("a.json", format!("[{gemini},{gemini}]"), true),
        ("a.json", format!("[{gemini},{{\"error\":{{\"code\":503}}}}]"), false),
        ("a.json", format!("[{gemini},{gemini}"), false),
        // The first of two results has no counts.
        ("a.json", format!("[{{\"generated_text\":\"hi\"}},{tgi}]"), false),
        ("a.json", format!("[{tgi},{tgi}]"), true),
    ];
    for (name, body, is_final) in cases {
        assert_eq!(usage(name, body.as_bytes(), true).is_final, is_final, "{name}: {body}");
    }
}

#[test]
fn the_total_reveals_no_output_that_other_counts_explain() {
    check(&[
        (
            r#"{"usage":{"prompt_tokens":1000,"completion_tokens":50,"total_tokens":1950,"prompt_tokens_details":{"cached_tokens":900}}}"#,
            (1000, 50, 900, 0),
            true,
        ),
        (
            r#"{"usage":{"prompt_tokens":1000,"completion_tokens":50,"total_tokens":1950,"cache_read_input_tokens":700,"cache_creation_input_tokens":200}}"#,
            (1000, 50, 700, 0),
            true,
        ),
        // The prompt excludes the caches, as their size shows.
        (
            r#"{"usage":{"prompt_tokens":100,"completion_tokens":50,"total_tokens":1050,"cache_read_input_tokens":900}}"#,
            (1000, 50, 900, 0),
            true,
        ),
        (
            r#"{"usage":{"input_tokens":100,"output_tokens":50,"total_tokens":1050,"cache_read_input_tokens":900}}"#,
            (1000, 50, 900, 0),
            true,
        ),
        (
            r#"{"usage":{"input_tokens":100,"output_tokens":50,"total_tokens":150,"cache_read_input_tokens":900}}"#,
            (1000, 50, 900, 0),
            true,
        ),
        (
            r#"{"usage":{"inputTokens":100,"outputTokens":50,"totalTokens":1050,"cacheReadInputTokens":900,"cacheWriteInputTokens":0}}"#,
            (1000, 50, 900, 0),
            true,
        ),
        (
            r#"{"usage":{"prompt_tokens":1000,"completion_tokens":50,"total_tokens":1250,"prompt_tokens_details":{"cached_tokens":900}}}"#,
            (1000, 250, 900, 0),
            true,
        ),
        // Mistral's connectors.
        (
            r#"{"usage":{"prompt_tokens":100,"completion_tokens":50,"total_tokens":7150,"connector_tokens":7000}}"#,
            (7100, 50, 0, 0),
            true,
        ),
        // Gemini: thoughts outside and inside the output.
        (
            r#"{"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":5,"thoughtsTokenCount":30,"totalTokenCount":45}}"#,
            (10, 35, 0, 30),
            true,
        ),
        (
            r#"{"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":35,"thoughtsTokenCount":30,"totalTokenCount":45}}"#,
            (10, 35, 0, 30),
            true,
        ),
        (r#"{"usage":{"prompt_tokens":0,"completion_tokens":50,"total_tokens":150}}"#, (100, 50, 0, 0), true),
        // The output itself is missing, 0, or negative.
        (
            r#"{"output":{"message":{"content":[{"text":"hi"}]}},"usage":{"inputTokens":30,"totalTokens":658}}"#,
            (30, 628, 0, 0),
            true,
        ),
        (
            r#"{"content":[{"text":"hi"}],"usage":{"input_tokens":9,"output_tokens":0,"total_tokens":20}}"#,
            (9, 11, 0, 0),
            true,
        ),
        (
            r#"{"usage":{"input_tokens":9,"cache_read_input_tokens":700,"total_tokens":720}}"#,
            (709, 11, 700, 0),
            true,
        ),
        (
            r#"{"choices":[{"text":"hi"}],"usage":{"prompt_tokens":9,"completion_tokens":-1,"total_tokens":8}}"#,
            (9, 0, 0, 0),
            false,
        ),
        // Gemini's Interactions API.
        (
            r#"{"status":"completed","outputs":[{"type":"text","text":"hi"}],"usage":{"total_input_tokens":7,"total_output_tokens":20,"total_thought_tokens":22,"total_cached_tokens":3,"total_tool_use_tokens":0,"total_tokens":49}}"#,
            (7, 42, 3, 22),
            true,
        ),
        (
            r#"[{"generated_text":"0123456789","details":{"generated_tokens":3,"best_of_sequences":[{"generated_text":"0123456789","generated_tokens":4}],"input_length":5}}]"#,
            (5, 7, 0, 0),
            true,
        ),
    ]);
}

/// The sidecar divides such a total.
#[test]
fn a_total_alone_is_not_all_input_beside_text() {
    let cases = [
        (r#"{"choices":[{"text":"0123456789"}],"usage":{"total_tokens":500}}"#, None, 500),
        (
            r#"{"choices":[{"text":"hi"}],"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":500}}"#,
            None,
            500,
        ),
        (r#"{"answer":"0123456789","usage":{"total_tokens":500}}"#, None, 500),
        (r#"{"data":[{"embedding":[1]}],"usage":{"total_tokens":500}}"#, Some((500, 0, 0, 0)), 0),
    ];
    for (body, tokens, total) in cases {
        let usage = usage("a.json", body.as_bytes(), true);
        assert_eq!(
            (tuple(usage.tokens), usage.total_tokens, usage.is_final),
            (tokens, total, tokens.is_some()),
            "{body}"
        );
    }
}

#[test]
fn reasoning_and_sub_calls_are_read_wherever_they_are_reported() {
    check(&[
        // At the top level, inside the output, outside by the total, outside by its size.
        (
            r#"{"usage":{"prompt_tokens":9,"completion_tokens":30,"total_tokens":39,"reasoning_tokens":20}}"#,
            (9, 30, 0, 20),
            true,
        ),
        (
            r#"{"usage":{"prompt_tokens":9,"completion_tokens":30,"total_tokens":59,"reasoning_tokens":20}}"#,
            (9, 50, 0, 20),
            true,
        ),
        (
            r#"{"usage":{"prompt_tokens":33,"completion_tokens":7163,"total_tokens":7196,"reasoning_tokens":73997}}"#,
            (33, 81160, 0, 73997),
            true,
        ),
        (r#"{"usage":{"input_tokens":9,"output_tokens":30,"reasoning_tokens":20}}"#, (9, 30, 0, 20), true),
        // Anthropic's compaction; its iterations of messages are part of the response's own counts.
        (
            r#"{"usage":{"input_tokens":23000,"output_tokens":1000,"iterations":[{"type":"compaction","input_tokens":180000,"output_tokens":3500},{"type":"message","input_tokens":23000,"output_tokens":1000}]}}"#,
            (203_000, 4500, 0, 0),
            true,
        ),
        (
            r#"{"usage":{"iterations":[{"input_tokens":5,"cache_read_input_tokens":700,"output_tokens":9,"type":"advisor_message"}],"input_tokens":100,"output_tokens":10,"cache_read_input_tokens":50}}"#,
            (855, 19, 750, 0),
            true,
        ),
        (
            r#"{"usage":{"input_tokens":100,"output_tokens":20,"compaction":{"input_tokens":5000,"output_tokens":300}}}"#,
            (5100, 320, 0, 0),
            true,
        ),
        (
            r#"{"usage":{"compactions":[{"input_tokens":50,"output_tokens":3},{"input_tokens":50,"output_tokens":3}],"input_tokens":100,"output_tokens":20}}"#,
            (200, 26, 0, 0),
            true,
        ),
        // Groq's sum is complete.
        (
            r#"{"usage":{"prompt_tokens":30,"completion_tokens":3},"usage_breakdown":{"models":[{"model":"a","usage":{"prompt_tokens":10,"completion_tokens":1}},{"model":"b","usage":{"prompt_tokens":20,"completion_tokens":2}}]}}"#,
            (30, 3, 0, 0),
            true,
        ),
        (
            r#"{"usage_breakdown":{"models":[{"usage":{"prompt_tokens":10,"completion_tokens":1}},{"usage":{"prompt_tokens":20,"completion_tokens":2}}]}}"#,
            (30, 3, 0, 0),
            true,
        ),
    ]);
    let stream = events(&[
        r#"{"type":"message_start","message":{"usage":{"input_tokens":23,"output_tokens":1}}}"#,
        r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":10,"iterations":[{"type":"compaction","input_tokens":180,"output_tokens":35},{"type":"message","input_tokens":23,"output_tokens":10}]}}"#,
        r#"{"type":"message_stop"}"#,
    ]);
    let usage = usage("a.sse", stream.as_bytes(), true);
    assert_eq!((tuple(usage.tokens), usage.is_final), (Some((203, 45, 0, 0)), true));
}

#[test]
fn usage_inside_an_envelope_is_read() {
    check(&[
        (
            r#"{"result":{"response":"hi","usage":{"prompt_tokens":9,"completion_tokens":3}}}"#,
            (9, 3, 0, 0),
            true,
        ),
        (r#"{"data":{"usage":{"input_tokens":9,"output_tokens":3}}}"#, (9, 3, 0, 0), true),
        (r#"{"some":{"data":{"usage":{"input_tokens":9,"output_tokens":3}}}}"#, (9, 3, 0, 0), true),
        (
            r#"{"response":{"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":3}}}"#,
            (9, 3, 0, 0),
            true,
        ),
        (r#"{"metadata":{"usage":{"inputTokens":9,"outputTokens":3,"totalTokens":12}}}"#, (9, 3, 0, 0), true),
        (r#"{"meta":{"billed_units":{"input_tokens":9,"output_tokens":3}},"text":"hi"}"#, (9, 3, 0, 0), true),
    ]);
    let arguments =
        r#"{"content":[{"type":"tool_use","input":{"usage":{"input_tokens":9,"output_tokens":3}}}]}"#;
    assert_eq!(usage("a.json", arguments.as_bytes(), true).tokens, None);
}
