use super::*;

#[test]
fn bodies_of_all_common_apis_are_summarized() {
    let cases: [(&str, (&str, u64, u64)); 34] = [
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
        (r#"{"system":[{"text":"ab"}],"messages":[{"content":[{"content":[{"text":"c"}]}]}]}"#, ("", 3, 0)),
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
        // The largest bound counts, because it is unknown which bound a server applies.
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
        (
            r#"{"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"data":["abc"]},{"name":"k","data":[5]}]}"#,
            ("", 3, 0),
        ),
        (
            r#"{"instances":[{"prompt":"abc"},{"content":"de"}],"parameters":{"maxOutputTokens":5}}"#,
            ("", 5, 5),
        ),
        ("[1,2]", ("", 0, 0)),
        (r#"{"model":"m","messages":[{"content":"cut of"#, ("m", 6, 0)),
        (r#"{"messages":[{"content":"\u00e9\n"}]}"#, ("", 3, 0)),
    ];
    for (body, (model, prompt_bytes, max_output_tokens)) in cases {
        let is_object = serde_json::from_str::<serde_json::Value>(body).is_ok_and(|value| value.is_object());
        let model = String::from(model);
        let summary = summarize(body.as_bytes());
        let read = (summary.is_object, summary.model, summary.prompt_bytes, summary.max_output_tokens);
        assert_eq!(read, (is_object, model, prompt_bytes, max_output_tokens), "{body}");
    }
}

#[test]
fn the_model_is_the_one_that_servers_use() {
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
        let summary = summarize(body.as_bytes());
        assert_eq!((summary.model.as_str(), summary.is_object), (model, true), "{body}");
    }
}

#[test]
fn ambiguous_bodies_are_not_objects() {
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
        assert!(!summarize(body).is_object, "{}", body.escape_ascii());
    }
}

#[test]
fn an_object_is_recognized_by_its_first_bytes() {
    let cases: [(&[u8], bool); 11] = [
        (b"", false),
        (b" \r\n\t", false),
        (b" {", false),
        (b"\xef\xbb", false),
        (b"\xef\xbb\xbf", false),
        (b"\xef\xbb\xbf{", false),
        (b"\xef\xbbx", true),
        (b"\xef\xbb{", true),
        (b"[", true),
        (b"--boundary", true),
        (b"{} x", true),
    ];
    for (head, is_hopeless) in cases {
        for split in 0..=head.len() {
            let mut reader = BodyReader::default();
            reader.feed(&head[..split]);
            reader.feed(&head[split..]);
            assert_eq!(reader.is_hopeless(), is_hopeless, "{} at {split}", head.escape_ascii());
            assert_eq!(reader.bytes(), head.len() as u64);
        }
    }
}

/// Truncated names could be equal although the models differ.
#[test]
fn a_name_longer_than_a_models_name_is_none() {
    let body = |len: usize| format!(r#"{{"model":"{}"}}"#, "é".repeat(len));
    assert_eq!(summarize(body(128).as_bytes()).model.len(), 256);
    assert_eq!(summarize(body(129).as_bytes()).model, "");
    assert_eq!(summarize(br#"{"model":"a","model":"b"}"#).model, "b");
    // Each invalid byte is replaced by three bytes.
    let body = [&b"{\"model\":\""[..], &[0xff; 255], b"a\"}"].concat();
    assert_eq!(summarize(&body).model.len(), 255);
}

#[test]
fn the_edit_makes_a_stream_report_usage() {
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
            Some(r#"{"stream":true,"stream_options": {"include_usage":true,"include_obfuscation":false}}"#),
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
        let edit = summarize(body.as_bytes()).usage_edit;
        let changed = edit.as_ref().map(|edit| edit.apply(body.as_bytes()).unwrap());
        assert_eq!(changed.as_deref(), expected.map(str::as_bytes), "{body}");
    }
    assert_eq!(Edit { range: 3..9, replacement: "" }.apply(b"short"), None);
}

#[test]
fn all_answers_of_a_request_are_counted() {
    let cases = [
        ("{}", (1, 0)),
        (r#"{"n":8,"max_tokens":100}"#, (8, 100)),
        (r#"{"max_tokens":100,"n":8}"#, (8, 100)),
        (r#"{"n":2,"best_of":5}"#, (5, 0)),
        (r#"{"n":0}"#, (1, 0)),
        (r#"{"n":-3}"#, (1, 0)),
        (r#"{"n":null}"#, (1, 0)),
        (r#"{"n":"8","max_tokens":"100"}"#, (8, 100)),
        (r#"{"n":8.0}"#, (8, 0)),
        (r#"{"n":2,"n":3}"#, (3, 0)),
        (r#"{"generationConfig":{"candidateCount":4,"maxOutputTokens":9}}"#, (4, 9)),
        (r#"{"generation_config":{"candidate_count":4}}"#, (4, 0)),
        (r#"{"parameters":{"n":4,"max_tokens":9}}"#, (4, 9)),
        (r#"{"inputs":"x","parameters":{"num_return_sequences":3,"max_new_tokens":20}}"#, (3, 20)),
        (r#"{"prompt":"x","num_generations":3,"max_tokens":7}"#, (3, 7)),
        (r#"{"text":"x","sampling_params":{"n":3,"max_new_tokens":7}}"#, (3, 7)),
        (r#"{"inferenceConfig":{"maxTokens":7}}"#, (1, 7)),
        (r#"{"inputText":"x","textGenerationConfig":{"maxTokenCount":7}}"#, (1, 7)),
        // Each prompt gets its own answers.
        (r#"{"prompt":["a","b","c"],"n":2}"#, (6, 0)),
        (r#"{"prompt":[[1,2],[3]]}"#, (2, 0)),
        (r#"{"prompt":[1,2,3]}"#, (1, 0)),
        (r#"{"input":["a","b"]}"#, (1, 0)),
        (r#"{"inputs":[{"name":"text","data":["a"]},{"name":"k","data":[5]}]}"#, (1, 0)),
        (r#"{"instances":[{"prompt":"x"}],"parameters":{"sampleCount":4}}"#, (4, 0)),
        (r#"{"messages":[{"n":8}]}"#, (1, 0)),
        (r#"{"n":18446744073709551615,"prompt":["a","b"]}"#, (u64::MAX, 0)),
    ];
    for (body, expected) in cases {
        let summary = summarize(body.as_bytes());
        assert_eq!((summary.choices, summary.max_output_tokens), expected, "{body}");
    }
}

#[test]
fn background_requests_and_batches_are_recognized() {
    let cases = [
        (r#"{"background":true}"#, true),
        (r#"{"background":false}"#, false),
        (r#"{"background":"transparent"}"#, false),
        (r#"{"metadata":{"background":true}}"#, false),
    ];
    for (body, expected) in cases {
        assert_eq!(summarize(body.as_bytes()).is_background, expected, "{body}");
    }
    let request =
        r#"{"custom_id":"1","params":{"model":"claude","max_tokens":50,"messages":[{"content":"abc"}]}}"#;
    let body = format!(r#"{{"requests":[{request},{request}]}}"#);
    let batch = summarize(body.as_bytes());
    assert_eq!(
        (&*batch.model, batch.prompt_bytes, batch.max_output_tokens, batch.choices),
        ("claude", 6, 50, 2)
    );
    let body = r#"{"batch":{"input_config":{"requests":{"requests":[{"request":{"contents":[{"parts":[{"text":"ab"}]}]}}]}}}}"#;
    assert_eq!(summarize(body.as_bytes()).prompt_bytes, 2);
    let body = r#"{"batch":{"inputConfig":{"requests":{"requests":[{"request":{"generationConfig":{"maxOutputTokens":5}}},{}]}}}}"#;
    let batch = summarize(body.as_bytes());
    assert_eq!((batch.max_output_tokens, batch.choices), (5, 2));
}

/// The gateway passes a body in parts of any size.
#[test]
fn parts_of_a_body_are_read_as_the_whole() {
    let body = "\u{feff} {\"model\":\"é1\",\"n\":\"4\",\"max_tokens\":12,\"stream\":true,\
                \"messages\":[{\"content\":\"a\\u00e9\"}]} ";
    let whole = summarize(body.as_bytes());
    assert!(whole.is_object && whole.usage_edit.is_some());
    for size in 1..body.len() {
        let mut reader = BodyReader::default();
        body.as_bytes().chunks(size).for_each(|part| reader.feed(part));
        assert_eq!(reader.summary(), whole, "parts of {size}");
    }
}
