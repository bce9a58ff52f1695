//! The forms of responses: where they have text, which of them generate nothing, errors, and framings.

use super::charged::{events, tuple, usage};

/// Generated text in members that no list names, inside answers of known APIs.
#[test]
fn text_at_any_place_of_an_answer_is_counted() {
    let cases = [
        (
            r#"{"choices":[{"message":{"tool_calls":[{"id":"call_1","type":"custom","custom":{"name":"sh","input":"0123456789"}}]}}]}"#,
            10,
        ),
        (r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"custom":{"input":"0123456789"}}]}}]}"#, 10),
        (
            r#"{"choices":[{"message":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"01234"}]},{"type":"text","text":"56789"}]}}]}"#,
            10,
        ),
        (
            r#"{"choices":[{"message":{"content":null,"audio":{"id":"a","data":"UklGRg==","transcript":"0123456789"}}}]}"#,
            10,
        ),
        (
            r#"{"choices":[{"message":{"role":"assistant","content":"01234","new_kind":{"of":["56789"]}}}]}"#,
            10,
        ),
        // The same reasoning under several names.
        (
            r#"{"choices":[{"message":{"content":"0","reasoning":"012345678","reasoning_details":[{"type":"reasoning.text","text":"012345678","signature":"s"}]}}]}"#,
            10,
        ),
        (
            r#"{"choices":[{"message":{"content":"0","reasoning_content":"012345678","thinking_blocks":[{"type":"thinking","thinking":"012345678","signature":"s"}],"provider_specific_fields":{"x":"y"}}}]}"#,
            10,
        ),
        (
            r#"{"output":[{"id":"ctc_1","type":"custom_tool_call","status":"completed","call_id":"call_1","name":"sh","input":"0123456789"}]}"#,
            10,
        ),
        (
            r#"{"output":[{"type":"code_interpreter_call","code":"0123456789","outputs":[{"type":"logs","logs":"long"}]}]}"#,
            10,
        ),
        (r#"{"type":"response.custom_tool_call_input.delta","delta":"0123456789"}"#, 10),
        (r#"{"type":"response.audio.transcript.delta","delta":"0123456789"}"#, 10),
        (r#"{"type":"content_block_start","content_block":{"type":"text","text":"0123456789"}}"#, 10),
        (
            r#"{"type":"content_block_start","content_block":{"type":"tool_use","id":"t","name":"n","input":{"a":"0123456789"}}}"#,
            10,
        ),
        (
            r#"{"type":"content_block_start","content_block":{"type":"web_search_tool_result","content":[{"title":"t","page_age":"long"}]}}"#,
            0,
        ),
        (r#"{"type":"response.output_text.done","text":"0123456789"}"#, 0),
        (r#"{"text":"0123456789","type":"response.output_text.done"}"#, 0),
        (
            r#"{"content":[{"type":"tool_use","id":"t","name":"n","input":{"name":"01234","id":{"type":"56789"}}}]}"#,
            10,
        ),
        (
            r#"{"content":[{"type":"compaction","content":"0123456789"},{"type":"web_search_tool_result","content":[{"title":"long","encrypted_content":"long"}]}]}"#,
            10,
        ),
        (
            r#"{"candidates":[{"content":{"parts":[{"text":"01234"},{"functionCall":{"name":"n","args":{"a":"56789"}}}],"role":"model"}}]}"#,
            10,
        ),
        (r#"{"result":{"response":"0123456789","usage":{}},"success":true}"#, 10),
        (r#"{"data":{"choices":[{"message":{"content":"0123456789"}}]}}"#, 10),
        (r#"{"some":{"choices":[{"message":{"content":"0123456789"}}]}}"#, 10),
        (r#"{"response":{"candidates":[{"content":{"parts":[{"text":"0123456789"}]}}]}}"#, 10),
        (r#"{"predictions":[{"content":"01234"},"56789"]}"#, 10),
        (r#"{"predictions":["0123456789"]}"#, 10),
        (r#"{"results":[{"text":"0123456789"}]}"#, 10),
        (r#"[{"translation_text":"0123456789"}]"#, 10),
        (r#"{"output_text":"0123456789"}"#, 10),
        (r#"{"generations":[{"id":"g","text":"0123456789","finish_reason":"COMPLETE"}]}"#, 10),
        (r#"{"outputs":[{"text":"0123456789","stop_reason":"stop"}]}"#, 10),
        (r#"{"completions":[{"completion":"0123456789","finish_reason":"maximum_tokens"}]}"#, 10),
        (r#"{"completions":[{"data":{"text":"0123456789"},"finishReason":{"reason":"length"}}]}"#, 10),
        (r#"{"candidates":[{"author":"1","content":"0123456789"}]}"#, 10),
        (r#"{"completion":"0123456789","stop_reason":"stop_sequence"}"#, 10),
        (r#"{"text":"0123456789"}"#, 10),
        (r#"{"text":["0123456789"]}"#, 10),
        (r#"[{"generated_text":"01234"},{"generated_text":"56789"}]"#, 10),
        (r#"{"output":["01234","56789"],"status":"succeeded"}"#, 10),
    ];
    for (body, bytes) in cases {
        let usage = usage("a.json", body.as_bytes(), true);
        assert_eq!((usage.output_bytes, usage.body_read), (bytes, true), "{body}");
    }
}

/// Images, audio and text of an unknown form cost the expected output, even if the stream is cut off or reports an output
/// of 0.
#[test]
fn output_that_is_not_text_is_seen() {
    let long = "x".repeat(129);
    let half = &long[..65];
    let json = [
        r#"{"type":"response.audio.delta","delta":"UklGRg=="}"#.to_owned(),
        r#"{"delta":"UklGRg==","type":"response.output_audio.delta"}"#.to_owned(),
        r#"{"content":[{"type":"redacted_thinking","data":"AAAA"}]}"#.to_owned(),
        format!(r#"{{"predictions":[{{"mimeType":"image/png","bytesBase64Encoded":"{long}"}}]}}"#),
        format!(r#"{{"images":["{long}"],"error":null}}"#),
        format!(
            r#"{{"answer":"{long}","usage":{{"prompt_tokens":9,"completion_tokens":0,"total_tokens":9}}}}"#
        ),
        format!(r#"{{"answer":"{long}","usage":{{"prompt_tokens":9,"total_tokens":9}}}}"#),
        format!(r#"{{"score":0.9,"answer":"{long}","usage":{{"prompt_tokens":9,"total_tokens":9}}}}"#),
    ];
    let part = format!(r#"{{"answer":"{half}"}}"#);
    let used = r#"{"usage":{"prompt_tokens":9,"completion_tokens":0}}"#;
    let stream = events(&[&part, &part, used, "[DONE]"]);
    for (body, end) in json.iter().chain([&stream]).flat_map(|body| [(body, true), (body, false)]) {
        let name = if body.starts_with('{') { "a.json" } else { "a.sse" };
        let usage = usage(name, body.as_bytes(), end);
        let found = (usage.is_final, usage.body_read, usage.form_unknown, usage.output_bytes);
        assert_eq!(found, (false, false, true, 0), "{body}");
    }
}

/// A number that shows a ranking or a token count is no proof if there is text that the reader does not recognize.
#[test]
fn a_form_that_generates_nothing_has_little_other_text() {
    let marks = [
        r#""score":0.9"#,
        r#""count":3"#,
        r#""input_tokens":3"#,
        r#""embedding":[0.1]"#,
        r#""response":null"#,
    ];
    for mark in marks {
        for (len, body_read) in [(128, true), (129, false)] {
            let text = "x".repeat(len);
            let first = format!(r#"{{"answer":"{text}",{mark}}}"#);
            let last = format!(r#"{{{mark},"a":[{{"b":"{text}"}}]}}"#);
            for body in [first, last] {
                assert_eq!(usage("a.json", body.as_bytes(), true).body_read, body_read, "{body}");
            }
        }
    }
}

/// A client must not save the output of an unknown form by closing the connection before its end.
#[test]
fn an_unknown_form_shows_before_its_end() {
    let answer = r#"{"answer":"a text of any length"}"#;
    let error = r#"{"error":"m"}"#;
    let cases = [
        (events(&[answer]), true),
        (events(&[answer, answer, error]), true),
        (events(&["a text"]), true),
        (format!("{answer}\n{answer}"), true),
        ("a text of any length".to_owned(), true),
        (events(&[error]), false),
        (events(&[r#"{"choices":[{"delta":{"role":"assistant"}}]}"#]), false),
        (events(&[r#"{"type":"ping"}"#]), false),
        (events(&[answer, r#"{"text":"hi"}"#]), false),
        (": comment\n\n".to_owned(), false),
        ("{\"answer\":\"a te".to_owned(), false),
        ("  ".to_owned(), false),
    ];
    for (body, form_unknown) in cases {
        assert_eq!(usage("a", body.as_bytes(), false).form_unknown, form_unknown, "{body}");
    }
}

/// Perplexity sends the message so far beside each part, and others the whole message at the end.
#[test]
fn a_message_beside_its_parts_counts_once() {
    let chunk = |delta: &str, message: &str| {
        format!(r#"{{"choices":[{{"delta":{{"content":"{delta}"}},"message":{{"content":"{message}"}}}}]}}"#)
    };
    let stream = [chunk("01234", "01234"), chunk("56789", "0123456789"), chunk("", "0123456789")];
    let stream = events(&stream.each_ref().map(String::as_str));
    assert_eq!(usage("a.sse", stream.as_bytes(), true).output_bytes, 10);
    let batch = format!(
        "[{0},{0}]",
        r#"{"choices":[{"message":{"content":"01234"}}],"usage":{"prompt_tokens":9,"completion_tokens":3}}"#
    );
    let batch = usage("a.json", batch.as_bytes(), true);
    assert_eq!((tuple(batch.tokens), batch.output_bytes, batch.is_final), (Some((18, 6, 0, 0)), 10, true));
}

/// The sidecar charges the expected output for a body that is not read, and no output for a body without text.
#[test]
fn only_forms_that_generate_nothing_are_free() {
    let nothing = [
        r#"{"object":"list","data":[{"id":"m","object":"model"}]}"#,
        r#"{"data":[{"type":"model","id":"claude"}],"has_more":false}"#,
        r#"{"models":[{"name":"models/gemini"}]}"#,
        r#"{"id":"m","object":"model","created":1}"#,
        r#"{"type":"model","id":"claude","display_name":"Claude"}"#,
        r#"{"input_tokens":14}"#,
        r#"{"object":"response.input_tokens","input_tokens":14}"#,
        r#"{"totalTokens":31,"totalBillableCharacters":96}"#,
        r#"{"inputTokens":14}"#,
        r#"{"count":3,"max_model_len":4096,"tokens":[1,2,3]}"#,
        r#"{"tokens":[1,2,3]}"#,
        r#"{"id":"modr-1","model":"m","results":[{"flagged":true,"categories":{"hate":false}}]}"#,
        r#"{"id":"1","results":[{"categories":{"hate":false},"category_scores":{"hate":0.1}}]}"#,
        r#"{"embedding":{"values":[0.1]}}"#,
        r#"{"embeddings":[[0.1]]}"#,
        r#"{"predictions":[{"embeddings":{"values":[0.1],"statistics":{"token_count":6}}}]}"#,
        "[[0.1,0.2],[0.3]]",
        r#"[{"index":0,"score":0.9}]"#,
        r#"[[{"label":"a","score":0.9}]]"#,
        r#"{"results":[{"index":0,"relevance_score":0.9}]}"#,
        r#"{"scores":[0.1,0.2]}"#,
        r#"{"output":{"results":[{"index":0,"relevance_score":0.9,"document":{"text":"a document"}}]}}"#,
        r#"{"model_name":"e","outputs":[{"name":"embedding","datatype":"FP32","shape":[2],"data":[0.1,0.2]}]}"#,
        r#"{"id":"ftjob-1","object":"fine_tuning.job","status":"queued"}"#,
        r#"{"id":"file-1","object":"file","bytes":120000}"#,
        r#"{"id":"1","object":"thread.deleted","deleted":true}"#,
        r#"{"id":"batch_1","object":"batch","status":"in_progress","output_file_id":null}"#,
        // Answers that are empty.
        r#"{"choices":[{"message":{"content":""},"finish_reason":"stop"}]}"#,
        r#"{"choices":[{"message":{"content":null},"finish_reason":"content_filter"}]}"#,
        r#"{"content":[],"stop_reason":"end_turn"}"#,
    ];
    let unknown = [
        r#"{"answer":"a text of any length"}"#,
        r#"{"output":{"answer":"a text of any length"}}"#,
        r#"{"answer":"a text of any length","stop_reason":"end_turn"}"#,
        r#"{"answer":"a text of any length","done":true}"#,
        r#"{"code":"Success","message":"OK","data":{"answer":"a text of any length"}}"#,
        r#"{"code":1000,"message":"ok","data":{"answer":"a text that is longer than the names, codes and labels of an answer that contains no generated text, as most of the answers are, this one too"}}"#,
        r#"{"answers":[{"text":"a text of any length","finish_reason":"stop"}]}"#,
        "{}",
        r#"{"a":1}"#,
        r#"[{"a":1}]"#,
        r#""a text""#,
        r#"{"created":1,"data":[{"url":"https://example.com/image.png"}]}"#,
        r#"{"choices":[{"message":{"content":null,"images":[{"image_url":{"url":"data:…"}}]},"finish_reason":"stop"}]}"#,
        r#"{"candidates":[{"content":{"parts":[{"inlineData":{"mimeType":"image/png","data":"iVBO"}}]},"finishReason":"STOP"}]}"#,
        // Not generated yet.
        r#"{"id":"resp_1","object":"response","status":"queued","background":true,"output":[],"usage":null}"#,
        r#"{"id":"1","status":"starting","output":null}"#,
    ];
    for (bodies, body_read) in [(&nothing[..], true), (&unknown[..], false)] {
        for body in bodies {
            for name in ["a.json", "a"] {
                let usage = usage(name, body.as_bytes(), true);
                let found = (usage.body_read, usage.tokens, usage.output_bytes, usage.is_error);
                assert_eq!(found, (body_read, None, 0, false), "{name}: {body}");
            }
        }
    }
}

#[test]
fn an_error_is_recognized_in_any_form() {
    let errors = [
        r#"{"error":{"message":"m","type":"server_error"}}"#,
        r#"{"error":"m"}"#,
        r#"{"type":"error","error":{"type":"overloaded_error"}}"#,
        r#"{"object":"error","message":"m","code":40001}"#,
        r#"{"code":"InvalidParameter","message":"m","request_id":"r"}"#,
        r#"{"code":10013,"message":"m"}"#,
        r#"{"error_code":336003,"error_msg":"m"}"#,
        r#"{"choices":null,"base_resp":{"status_code":1004,"status_msg":"m"}}"#,
        r#"{"errors":["m"]}"#,
        r#"{"status":"error","error_message":"m"}"#,
        r#"{"message":{"role":"assistant"},"finish_reason":"ERROR_LIMIT"}"#,
        r#"{"error":{"code":500}}"#,
        r#"{"result":null,"success":false,"errors":[{"code":5006,"message":"m"}]}"#,
        r#"[{"error":{"code":503,"status":"UNAVAILABLE"}}]"#,
        r#"{"error":"m","traceback":"a text that is longer than the names, codes and labels of an answer that contains no generated text, as tracebacks of most of the servers are"}"#,
        r#"{"object":"response","status":"failed","error":{"code":"server_error"},"output":[],"usage":null}"#,
    ];
    let answers = [
        r#"{"error":{},"errors":[],"output":[{"content":[{"text":"hi"}]}]}"#,
        r#"{"error":"","response":"hi"}"#,
        r#"{"code":200,"message":"ok","data":{"text":"hi"}}"#,
        r#"{"code":0,"message":"Success","choices":[{"message":{"content":"hi"}}]}"#,
        r#"{"choices":[{"message":{"content":"hi"}}],"base_resp":{"status_code":0,"status_msg":""}}"#,
        r#"{"error_code":0,"result":"hi"}"#,
        r#"{"code":"200","message":"success","data":{"text":"hi"}}"#,
        r#"{"choices":[{"message":{"content":"hi"}}],"error":{"code":0,"message":""}}"#,
        r#"{"content":[{"type":"tool_use","input":{"error":{"a":"hi"},"finish_reason":"error"}}]}"#,
    ];
    for (bodies, is_error) in [(&errors[..], true), (&answers[..], false)] {
        for body in bodies {
            let usage = usage("a.json", body.as_bytes(), true);
            assert_eq!((usage.is_error, usage.output_bytes > 0), (is_error, !is_error), "{body}");
        }
    }
    // What an error event contains is no output of an unknown form.
    for event in [
        "event: error\ndata: {\"message\":\"m\"}\n\n",
        "data: {\"message\":\"m\"}\nevent: error\n\n",
        "event: error\ndata: m\n\n",
    ] {
        let usage = usage("a.sse", event.as_bytes(), true);
        assert_eq!((usage.is_error, usage.form_unknown), (true, false), "{event}");
    }
    let failed = events(&[r#"{"type":"response.failed","response":{"status":"failed","usage":null}}"#]);
    assert!(usage("a.sse", failed.as_bytes(), true).is_error);
    let exception = include_bytes!("../../../tests/fixtures/bedrock-exception.bin");
    let stream = usage("a", exception, true);
    assert_eq!((stream.is_error, stream.is_final, stream.output_bytes), (true, false, 6));
}

#[test]
fn the_form_of_a_body_shows_in_its_content() {
    let chunk = r#"{"choices":[{"delta":{"content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":3}}"#;
    let cases = [
        (format!("data: {chunk}\n\n"), true),
        (format!("data:{chunk}\n\n"), true),
        (format!("event: message\ndata: {chunk}\n\n"), true),
        (format!("id: 1\ndata: {chunk}\n\n"), true),
        (format!("retry: 500\n\ndata: {chunk}\n\n"), true),
        (format!(": comment\n\ndata: {chunk}\n\n"), true),
        (format!("\u{feff}\r\n\r\ndata: {chunk}\r\n\r\n"), true),
        (format!("{chunk}\n{chunk}\n"), true),
        (chunk.to_owned(), true),
        (format!("[{chunk}]"), true),
        (format!("dada: {chunk}\n\n"), false),
        (format!("data {chunk}\n\n"), false),
        (format!("e\ndata: {chunk}\n\n"), false),
        (format!("<html>{chunk}"), false),
        (format!("\0{chunk}"), false),
    ];
    for (body, is_read) in cases {
        let usage = usage("a", body.as_bytes(), true);
        let expected = is_read.then_some((9, 3, 0, 0));
        assert_eq!((tuple(usage.tokens), usage.is_final), (expected, is_read), "{body}");
    }
}

#[test]
fn each_response_of_a_connection_is_added() {
    let connection = include_bytes!("../../../tests/fixtures/realtime.ws");
    let read = |body: &[u8]| {
        let usage = usage("a.ws", body, false);
        (tuple(usage.tokens), usage.is_final, usage.output_bytes, usage.is_error, usage.body_read)
    };
    assert_eq!(read(connection), (Some((270, 80, 120, 0)), true, 8, false, true));
    let bye = connection.windows(3).rposition(|part| part == b"Bye").unwrap() + 6;
    assert_eq!(read(&connection[..bye]), (Some((100, 50, 20, 0)), false, 8, false, true));
    // Nothing was generated yet.
    assert_eq!(read(b"\x81\x1a{\"type\":\"session.created\"}"), (None, false, 0, false, true));
    // An unknown protocol, a compressed message, and a message that is not JSON.
    assert_eq!(read(b"\x81\x07{\"a\":1}"), (None, false, 0, false, false));
    assert_eq!(read(b"\xc1\x07\x00\x01\x02\x03\x04\x05\x06"), (None, false, 0, false, false));
    assert_eq!(read(b"\x82\x03abc\x81\x1a{\"type\":\"session.created\"}"), (None, false, 0, false, false));
    let gemini = br#"{"serverContent":{"turnComplete":true},"usageMetadata":{"promptTokenCount":9,"responseTokenCount":3}}"#;
    let gemini = [&[0x82, gemini.len() as u8], &gemini[..]].concat().repeat(2);
    assert_eq!(read(&gemini), (Some((18, 6, 0, 0)), true, 0, false, true));
}
