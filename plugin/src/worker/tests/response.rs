//! Tests of reading usage from responses and stripping it.

use evenkeel_proto::v1::{Outcome, SettleRequest, Tokens};

use super::*;
use crate::metrics::Counter;

const STREAM: &str = include_str!("../../../tests/fixtures/openai-chat.sse");

fn begin(rig: &mut Rig, context: u32, status: u64, headers: &[(&str, &str)]) {
    rig.host.with_stream(context, |s| {
        s.response_headers.insert(":status".into(), status.to_string());
        s.response_headers.extend(headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
    });
    rig.respond(context, "a:1", status);
}

/// Passes a chunk of the body to the plugin. Returns the bytes that the client receives.
fn pass(rig: &mut Rig, context: u32, chunk: &[u8], end: bool) -> Vec<u8> {
    rig.host.with_stream(context, |s| s.response_chunk = chunk.to_vec());
    rig.worker.on_response_body(&rig.host, context, chunk.len(), end);
    rig.host.with_stream(context, |s| std::mem::take(&mut s.response_chunk))
}

/// Admits a request and starts its response.
fn streaming(config: &str, headers: &[(&str, &str)]) -> Rig {
    let mut rig = Rig::new(config);
    rig.arrive(5);
    rig.admit(5, "a:1");
    begin(&mut rig, 5, 200, headers);
    rig
}

fn settled(rig: &mut Rig) -> SettleRequest {
    rig.end(5);
    rig.last_settlement()
}

const EVENTS: (&str, &str) = ("content-type", "text/event-stream; charset=utf-8");

#[test]
fn settle_carries_the_reported_usage() {
    let mut rig = streaming("", &[EVENTS]);
    for chunk in STREAM.as_bytes().chunks(50) {
        assert_eq!(pass(&mut rig, 5, chunk, false), chunk, "passes unchanged");
    }
    pass(&mut rig, 5, b"", true);
    let settle = settled(&mut rig);
    let tokens = Tokens { input: 19, output: 10, cached_input: 4, reasoning: 0, cached_input_stated: true };
    assert_eq!((settle.tokens, settle.tokens_final, settle.output_bytes), (Some(tokens), true, 16));
    assert_eq!(settle.model, "gpt-4o-mini");
    assert_eq!(rig.host.count_of(Counter::UsageFinal), 1);
}

#[test]
fn a_truncated_response_reports_its_text_size() {
    let mut rig = streaming("", &[EVENTS]);
    pass(&mut rig, 5, &STREAM.as_bytes()[..STREAM.find("w\u{f6}rld").unwrap()], false);
    let settle = settled(&mut rig);
    assert_eq!((settle.tokens, settle.tokens_final, settle.output_bytes), (None, false, 6));
    assert_eq!(rig.host.count_of(Counter::UsageAbsent), 1);

    let mut rig = streaming("", &[EVENTS]);
    pass(&mut rig, 5, br#"data: {"message":{"usage":{"input_tokens":9 }}}"#, false);
    let settle = settled(&mut rig);
    assert_eq!((settle.tokens.unwrap().input, settle.tokens_final), (9, false));
    assert_eq!(rig.host.count_of(Counter::UsagePartial), 1);
}

#[test]
fn settle_reports_whether_the_body_was_read() {
    for (kind, end, body_read) in
        [("application/json", true, true), ("application/json", false, false), ("text/html", true, false)]
    {
        let mut rig = streaming("", &[("content-type", kind)]);
        pass(&mut rig, 5, br#"{"object":"list","data":[]}"#, end);
        let settle = settled(&mut rig);
        assert_eq!((settle.body_read, settle.tokens, settle.output_bytes), (body_read, None, 0), "{kind}");
    }
}

#[test]
fn a_large_chunk_is_copied_in_parts() {
    let text = "x".repeat(200_000);
    let body = format!(r#"data: {{"choices":[{{"delta":{{"content":"{text}"}}}}],"usage":null}}"#);
    let body = format!("{body}\n\ndata: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":1}}}}\n\n");
    let mut rig = streaming("", &[EVENTS]);
    assert_eq!(pass(&mut rig, 5, body.as_bytes(), true), body.as_bytes());
    let settle = settled(&mut rig);
    assert_eq!((settle.output_bytes, settle.tokens.unwrap().input), (200_000, 1));

    let mut rig = chat(INCLUDE, "/v1/chat/completions", r#"{"stream":true}"#);
    begin(&mut rig, 5, 200, &[EVENTS]);
    let seen = pass(&mut rig, 5, body.as_bytes(), true);
    assert_eq!(
        seen.len(),
        body.find("data: {\"choices\":[],").unwrap(),
        "the oversized event passes unchanged"
    );
    settled(&mut rig);
    assert_eq!(rig.host.count_of(Counter::UsageNotStripped), 1);
}

#[test]
fn trailers_end_a_body() {
    let mut rig = streaming("", &[("content-type", "text/event-stream")]);
    pass(&mut rig, 5, b"data: {\"text\":\"\"}\n\n", false);
    rig.worker.on_response_trailers(&rig.host, 5);
    assert!(settled(&mut rig).body_read);
}

/// The first byte of another response comes when its last token is generated.
#[test]
fn settle_says_whether_a_response_was_streamed() {
    const EVENT: &str = "data: {\"text\":\"\"}\n\n";
    let cases: [(&str, u64, &Headers, &str, bool); 10] = [
        ("", 200, &[EVENTS], EVENT, true),
        ("", 200, &[EVENTS, ("content-encoding", "gzip")], "\u{1f}", true),
        ("", 200, &[EVENTS], "", true),
        ("", 200, &[("content-type", "application/x-ndjson")], "{\"response\":\"a\"}\n", true),
        ("", 200, &[("content-type", "text/plain")], EVENT, true),
        ("", 200, &[("content-type", "application/vnd.amazon.eventstream")], "\0\0\0\u{10}", true),
        ("", 200, &[("content-type", "application/json")], "{\"choices\":[]}", false),
        ("", 200, &[], "{\"choices\":[]}", false),
        ("", 500, &[EVENTS], EVENT, false),
        (r#"{"read_usage":false}"#, 200, &[EVENTS], EVENT, false),
    ];
    for (config, status, headers, body, streamed) in cases {
        let mut rig = Rig::new(config);
        rig.arrive(5);
        rig.admit(5, "a:1");
        begin(&mut rig, 5, status, headers);
        pass(&mut rig, 5, body.as_bytes(), true);
        assert_eq!(settled(&mut rig).streamed, streamed, "{config} {status} {headers:?} {body:?}");
    }
}

#[test]
fn only_responses_that_may_report_usage_are_read() {
    let body = br#"{"usage":{"prompt_tokens":1}}"#;
    const JSON: (&str, &str) = ("content-type", "application/json");
    let cases: [(&str, u64, &Headers, bool); 12] = [
        ("", 200, &[JSON], true),
        ("", 200, &[("content-type", "Application/JSON;charset=utf-8")], true),
        ("", 200, &[("content-type", "application/problem+json")], true),
        ("", 200, &[("content-type", "application/x-ndjson")], true),
        ("", 200, &[JSON, ("content-encoding", "identity")], true),
        ("", 200, &[JSON, ("content-encoding", "gzip")], false),
        ("", 200, &[("content-type", "text/html")], false),
        ("", 200, &[("content-type", "application/octet-stream")], true),
        ("", 200, &[], true),
        ("", 429, &[JSON], false),
        ("", 500, &[JSON], false),
        (r#"{"read_usage":false}"#, 200, &[JSON], false),
    ];
    for (config, status, headers, read) in cases {
        let mut rig = Rig::new(config);
        rig.arrive(5);
        rig.admit(5, "a:1");
        begin(&mut rig, 5, status, headers);
        assert_eq!(pass(&mut rig, 5, body, true), body);
        let settle = settled(&mut rig);
        assert_eq!(settle.tokens.is_some(), read, "{config} {status} {headers:?}");
        assert_eq!(settle.form_unknown, !read && status == 200 && config.is_empty(), "{status} {headers:?}");
        let encoded = headers.iter().any(|(_, v)| *v == "gzip");
        assert_eq!(rig.host.count_of(Counter::UsageCompressed), u64::from(encoded));
    }
}

#[test]
fn the_gateways_own_response_has_no_usage() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.admit(5, "a:1");
    // For example, another filter answers from a cache.
    rig.host.set_property(5, "response.code_details", b"cache.response_from_cache_filter");
    rig.host.with_stream(5, |s| {
        s.response_headers.insert(":status".into(), "200".into());
        s.response_headers.insert("content-type".into(), "application/json".into());
    });
    rig.worker.on_response_headers(&rig.host, 5);
    pass(&mut rig, 5, br#"{"usage":{"prompt_tokens":1}}"#, true);
    assert_eq!(settled(&mut rig).tokens, None);
}

#[test]
fn offers_of_compression_are_removed() {
    for (config, kept) in
        [("", false), (r#"{"accept_encoding":"keep"}"#, true), (r#"{"read_usage":false}"#, true)]
    {
        for name in ["accept-encoding", "sec-websocket-extensions"] {
            let mut rig = Rig::new(config);
            rig.host.open(5);
            rig.host.with_stream(5, |s| s.request_headers.insert(name.into(), "permessage-deflate".into()));
            rig.worker.on_request_headers(&rig.host, 5, true);
            assert_eq!(rig.header(5, name).is_some(), kept, "{config} {name}");
        }
    }
}

/// Servers send JSON and events under many content types.
#[test]
fn the_form_of_a_body_is_recognized_by_its_content() {
    let event = b"data: {\"choices\":[{\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3}}\n\n";
    let line =
        b"{\"response\":\"hi\",\"done\":false}\n{\"done\":true,\"prompt_eval_count\":9,\"eval_count\":3}\n";
    let types = [
        "",
        "text/plain",
        "application/octet-stream",
        "application/stream+json",
        "application/x-json-stream",
    ];
    for body in [&event[..], &line[..]] {
        for kind in types.into_iter().chain(["application/json", "application/json-seq"]) {
            let mut rig = streaming("", &[("content-type", kind)]);
            for byte in body {
                pass(&mut rig, 5, &[*byte], false);
            }
            pass(&mut rig, 5, b"", true);
            let settle = settled(&mut rig);
            let tokens = settle.tokens.unwrap_or_default();
            assert_eq!((tokens.input, tokens.output, settle.tokens_final), (9, 3, true), "{kind}");
        }
    }
    // A download is not copied after its first bytes.
    let mut rig = streaming("", &[("content-type", "application/octet-stream")]);
    pass(&mut rig, 5, b"PK\x03\x04", false);
    rig.host.with_stream(5, |s| s.response_chunk.clear());
    rig.worker.on_response_body(&rig.host, 5, 1 << 20, false);
    assert!(!settled(&mut rig).body_read);
}

/// The plugin removes usage from events even if the server sends them under another type.
#[test]
fn usage_is_stripped_from_events_of_any_type() {
    let requested = chat_stream("text/plain");
    assert!(requested.ends_with("data: [DONE]\n\n") && !requested.contains("usage"), "{requested}");
}

fn chat_stream(content_type: &str) -> String {
    let mut rig = chat(INCLUDE, "/v1/chat/completions", r#"{"stream":true}"#);
    begin(&mut rig, 5, 200, &[("content-type", content_type)]);
    let mut seen = pass(&mut rig, 5, STREAM.as_bytes(), false);
    seen.extend(pass(&mut rig, 5, b"", true));
    String::from_utf8(seen).unwrap()
}

/// The outcome of a response with status 200 depends on its body: (status, body, outcome).
#[test]
fn an_error_in_the_body_is_an_error() {
    let text = "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\n";
    let error = "data: {\"error\":{\"message\":\"m\"}}\n\n";
    let cases = [
        (text.to_owned(), Outcome::Success),
        (error.to_owned(), Outcome::ServerError),
        (format!("{text}{error}"), Outcome::UpstreamReset),
        ("{\"error\":{\"message\":\"m\"}}".to_owned(), Outcome::ServerError),
        // The form is unknown, so text may precede the error.
        (format!("data: {{\"answer\":\"hi\"}}\n\n{error}"), Outcome::UpstreamReset),
    ];
    for (body, outcome) in cases {
        let mut rig = streaming("", &[EVENTS]);
        pass(&mut rig, 5, body.as_bytes(), true);
        let settle = settled(&mut rig);
        assert_eq!((settle.outcome(), settle.status), (outcome, 200), "{body}");
    }
}

/// Mistral's and Cohere's models on Bedrock report tokens only in headers.
#[test]
fn token_counts_in_headers_apply_if_the_body_has_none() {
    let anthropic =
        r#"{"content":[{"type":"text","text":"hi"}],"usage":{"input_tokens":7,"output_tokens":2}}"#;
    for (body, tokens) in
        [(r#"{"outputs":[{"text":"hi","stop_reason":"stop"}]}"#, (18, 5)), (anthropic, (7, 2))]
    {
        let counts = [
            ("content-type", "application/json"),
            ("x-amzn-bedrock-input-token-count", "18"),
            ("x-amzn-bedrock-output-token-count", "5"),
        ];
        let mut rig = streaming("", &counts);
        pass(&mut rig, 5, body.as_bytes(), true);
        let settle = settled(&mut rig);
        let found = settle.tokens.map(|found| (found.input, found.output));
        assert_eq!((found, settle.tokens_final), (Some(tokens), true), "{body}");
    }
}

#[test]
fn messages_of_a_websocket_are_read() {
    let connection = include_bytes!("../../../tests/fixtures/realtime.ws");
    for (upgrade, tokens) in [("WebSocket", Some((270, 80))), ("other", None)] {
        let mut rig = Rig::new("");
        rig.arrive(5);
        rig.admit(5, "a:1");
        begin(&mut rig, 5, 101, &[("upgrade", upgrade)]);
        for chunk in connection.chunks(7) {
            assert_eq!(pass(&mut rig, 5, chunk, false), chunk, "passes unchanged");
        }
        let settle = settled(&mut rig);
        let found = settle.tokens.map(|tokens| (tokens.input, tokens.output));
        assert_eq!((found, settle.upgraded, settle.tokens_final), (tokens, true, tokens.is_some()));
    }
}

#[test]
fn error_responses_also_get_the_headers_from_the_sidecar() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.answer(
        5,
        0,
        Some(Answer::Admitted(Admitted {
            endpoint: "a:1".into(),
            response_headers: vec![header("x-left", "7")],
            ..Admitted::default()
        })),
    );
    begin(&mut rig, 5, 500, &[]);
    assert_eq!(rig.host.with_stream(5, |s| s.response_headers["x-left"].clone()), "7");
}

/// Sends a chat request with this path and body.
fn chat(config: &str, path: &str, body: &str) -> Rig {
    let mut rig = Rig::new(config);
    rig.host.open(5);
    rig.host.with_stream(5, |s| {
        s.request_headers.insert(":path".into(), path.into());
        s.request_headers.insert("content-type".into(), "application/json".into());
        s.request_headers.insert("content-length".into(), body.len().to_string());
        s.body = body.as_bytes().to_vec();
    });
    assert_eq!(rig.worker.on_request_headers(&rig.host, 5, false), Flow::Pause);
    assert_eq!(rig.worker.on_request_body(&rig.host, 5, body.len(), true), Flow::Pause);
    rig.admit(5, "a:1");
    rig
}

const INCLUDE: &str = r#"{"read_body":true,"include_usage":true}"#;

#[test]
fn a_stream_reports_usage_that_the_client_does_not_see() {
    let mut rig = chat(INCLUDE, "/v1/chat/completions?a=b", r#"{"model":"m","stream":true}"#);
    let body = String::from_utf8(rig.host.with_stream(5, |s| s.body.clone())).unwrap();
    assert_eq!(body, r#"{"stream_options":{"include_usage":true},"model":"m","stream":true}"#);
    assert_eq!(rig.header(5, "content-length"), Some(body.len().to_string()));
    assert_eq!(rig.last_admit().model, "m");

    begin(&mut rig, 5, 200, &[EVENTS, ("content-length", "9")]);
    assert!(!rig.host.with_stream(5, |s| s.response_headers.contains_key("content-length")));
    let mut seen = Vec::new();
    for chunk in STREAM.as_bytes().chunks(70) {
        seen.extend(pass(&mut rig, 5, chunk, false));
    }
    seen.extend(pass(&mut rig, 5, b"", true));
    let seen = String::from_utf8(seen).unwrap();
    assert!(
        !seen.contains("usage") && seen.contains("Hello") && seen.ends_with("data: [DONE]\n\n"),
        "{seen}"
    );
    let settle = settled(&mut rig);
    assert_eq!((settle.tokens.unwrap().output, settle.tokens_final), (10, true));
    assert_eq!(rig.host.count_of(Counter::UsageRequested), 1);
}

#[test]
fn bytes_held_back_are_forwarded_at_the_end_of_the_body() {
    let mut rig = chat(INCLUDE, "/v1/completions", r#"{"stream":true}"#);
    begin(&mut rig, 5, 200, &[EVENTS]);
    assert_eq!(pass(&mut rig, 5, b"data: [DO", false), b"");
    assert_eq!(pass(&mut rig, 5, b"NE]", true), b"data: [DONE]");
}

#[test]
fn other_requests_and_responses_are_unchanged() {
    let stream = r#"{"stream":true}"#;
    let asking = r#"{"stream":true,"stream_options":{"include_usage":true}}"#;
    let cases = [
        (INCLUDE, "/v1/chat/completions", asking),
        (INCLUDE, "/v1/chat/completions", r#"{"stream":false}"#),
        (INCLUDE, "/v1/messages", stream),
        (INCLUDE, "/v1/responses?x=/completions", stream),
        (r#"{"read_body":true}"#, "/v1/chat/completions", stream),
    ];
    for (config, path, body) in cases {
        let mut rig = chat(config, path, body);
        assert_eq!(rig.host.with_stream(5, |s| s.body.clone()), body.as_bytes(), "{path} {body}");
        assert_eq!(rig.header(5, "content-length"), Some(body.len().to_string()));
        begin(&mut rig, 5, 200, &[EVENTS]);
        assert_eq!(pass(&mut rig, 5, STREAM.as_bytes(), true), STREAM.as_bytes());
    }
    let mut rig = chat(INCLUDE, "/v1/chat/completions", stream);
    begin(&mut rig, 5, 200, &[("content-type", "application/json")]);
    let body = br#"{"choices":[],"usage":{"prompt_tokens":1}}"#;
    assert_eq!(pass(&mut rig, 5, body, true), body, "not an event stream");
}
