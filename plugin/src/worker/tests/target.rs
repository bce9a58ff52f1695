//! Tests of what a request asks for, by its method, its path and its headers.

use evenkeel_proto::v1::Generation;

use super::*;

const READ: &str = r#"{"read_body":true}"#;

/// Sends a request with this body and returns its Admit.
fn admit_of(config: &str, headers: &Headers, body: &[u8]) -> AdmitRequest {
    let mut rig = Rig::new(config);
    rig.host.open(5);
    rig.host.with_stream(5, |s| {
        s.request_headers.extend(headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
        s.body = body.to_vec();
    });
    let held = rig.worker.on_request_headers(&rig.host, 5, false);
    if held == Flow::Pause && rig.host.admits().is_empty() {
        rig.worker.on_request_body(&rig.host, 5, body.len(), true);
    }
    rig.last_admit()
}

fn facts(admit: &AdmitRequest) -> (&str, u64, Generation) {
    (admit.model.as_str(), admit.prompt_bytes, admit.generation())
}

const BODY: &[u8] = br#"{"model":"m1","prompt":"abc","max_tokens":9}"#;

#[test]
fn calls_that_generate_nothing_have_no_model_and_no_prompt() {
    let calls = [
        ("GET", "/v1/responses/r"),
        ("GET", "/v1/batches/b"),
        ("GET", "/v1/models/m1"),
        ("GET", "/openai/deployments/gpt-4o/responses/r"),
        ("HEAD", "/"),
        ("OPTIONS", "/v1/chat/completions"),
        ("DELETE", "/v1/responses/r"),
        ("POST", "/v1/messages/count_tokens"),
        ("POST", "/v1beta/models/g:countTokens"),
        ("POST", "/tokenize"),
        ("POST", "/v1/detokenize"),
        ("POST", "/v1/files"),
    ];
    for (method, path) in calls {
        let headers: &Headers = &[
            (":method", method),
            (":path", path),
            ("content-type", "application/json"),
            ("content-length", "44"),
        ];
        for config in [READ, "", r#"{"read_body":true,"on_unread_body":"refuse"}"#] {
            let admit = admit_of(config, headers, BODY);
            assert_eq!(facts(&admit), ("", 0, Generation::None), "{method} {path} {config}");
            assert_eq!((admit.max_output_tokens, admit.choices), (0, 0));
        }
    }
}

/// Cancelling takes no body. A gateway may rewrite a path, and then a request with a body may generate.
#[test]
fn cancelling_generates_nothing_without_a_body() {
    let cancel = |bytes: usize| {
        let mut rig = Rig::new(READ);
        rig.host.open(5);
        rig.host.with_stream(5, |s| {
            s.request_headers.insert(":path".into(), "/v1/responses/r/cancel".into());
            s.request_headers.insert("content-length".into(), bytes.to_string());
            s.body = BODY[..bytes].to_vec();
        });
        rig.worker.on_request_headers(&rig.host, 5, bytes == 0);
        if rig.host.admits().is_empty() {
            rig.worker.on_request_body(&rig.host, 5, bytes, true);
        }
        rig.last_admit().generation()
    };
    let expected = [Generation::None, Generation::None, Generation::Unspecified];
    assert_eq!([0, 2, BODY.len()].map(cancel), expected);
}

#[test]
fn helper_calls_can_be_counted_as_requests_of_their_model() {
    const COUNT: &str = r#"{"read_body":true,"count_helper_calls":true}"#;
    let cases = [
        ("POST", "/v1/messages/count_tokens", BODY, "m1"),
        ("POST", "/v1beta/models/gemini:countTokens", BODY, "gemini"),
        ("POST", "/tokenize", br#"{"prompt":"abc"}"#, "(unknown)"),
        ("GET", "/openai/deployments/gpt-4o/responses/r", b"", "gpt-4o"),
        ("GET", "/v1/models", b"", ""),
    ];
    for (method, path, body, model) in cases {
        let admit = admit_of(COUNT, &[(":method", method), (":path", path)], body);
        assert_eq!(facts(&admit), (model, 0, Generation::None), "{method} {path}");
    }
}

#[test]
fn a_request_whose_answer_comes_later_is_a_background_request() {
    let cases: [(&Headers, &[u8]); 5] = [
        (&[(":path", "/v1/responses")], br#"{"model":"m1","prompt":"abc","background":true}"#),
        (&[(":path", "/v1/threads/t/runs")], BODY),
        (&[(":path", "/v1/batches")], BODY),
        (&[(":path", "/v1/messages/batches")], br#"{"requests":[{"params":{"model":"m1","prompt":"abc"}}]}"#),
        (&[(":path", "/api/v1/services/aigc/x"), ("x-dashscope-async", "enable")], BODY),
    ];
    for (headers, body) in cases {
        assert_eq!(facts(&admit_of(READ, headers, body)), ("m1", 3, Generation::Background), "{headers:?}");
    }
    assert_eq!(admit_of(READ, &[], BODY).generation(), Generation::Unspecified);
}

/// A WebSocket carries a realtime session. Its model is in the query.
#[test]
fn a_websocket_generates() {
    let cases = [
        ("/v1/realtime?model=gpt-realtime", "gpt-realtime"),
        ("/v1/realtime", "(unknown)"),
        ("/ws/anything?deployment=d", "d"),
    ];
    for (path, model) in cases {
        let headers: &Headers = &[(":method", "GET"), (":path", path), ("upgrade", "WebSocket")];
        assert_eq!(facts(&admit_of(READ, headers, b"")), (model, 0, Generation::Unspecified), "{path}");
    }
    // Clients offer HTTP/2 on any request.
    let headers: &Headers = &[(":method", "GET"), (":path", "/v1/models"), ("upgrade", "h2c")];
    assert_eq!(admit_of(READ, headers, b"").generation(), Generation::None);
}

#[test]
fn a_get_that_its_server_treats_as_a_post_is_read() {
    let headers: &Headers = &[(":method", "GET"), ("x-http-method-override", "post")];
    assert_eq!(facts(&admit_of(READ, headers, BODY)), ("m1", 3, Generation::Unspecified));
    let headers: &Headers = &[(":method", "GET"), ("x-http-method-override", "DELETE")];
    assert_eq!(facts(&admit_of(READ, headers, BODY)), ("", 0, Generation::None));
}

#[test]
fn model_id_names_the_model_on_the_paths_of_its_api() {
    let body = br#"{"model_id":"granite","input":"abc"}"#;
    let watsonx: &Headers = &[(":path", "/ml/v1/text/generation?version=2")];
    assert_eq!(facts(&admit_of(READ, watsonx, body)), ("granite", 3, Generation::Unspecified));
    assert_eq!(facts(&admit_of(READ, &[], body)).0, "(unknown)");
}

#[test]
fn paths_name_models_for_bodies_that_name_none() {
    let cases = [
        ("/model/anthropic.claude-v1%3A0/converse", "anthropic.claude-v1:0"),
        ("/v2/models/llama/generate", "llama"),
        ("/v1/chat/completions", "(unknown)"),
    ];
    for (path, model) in cases {
        let admit = admit_of(READ, &[(":path", path)], br#"{"n":3,"max_tokens":5}"#);
        assert_eq!(facts(&admit), (model, 0, Generation::Unspecified));
        assert_eq!((admit.choices, admit.max_output_tokens), (3, 5));
    }
}

/// A gateway that rewrites the path of a helper call to that of a model does not make the call free.
#[test]
fn a_helper_call_that_generates_is_charged() {
    let usage = |tokens: &str| format!(r#"{{"model":"m1","choices":[],"usage":{{{tokens}}}}}"#);
    let cases = [
        (r#"{"input_tokens":2095}"#.to_owned(), None),
        (usage(r#""prompt_tokens":5,"completion_tokens":0"#), None),
        (usage(r#""prompt_tokens":5,"completion_tokens":7"#), Some("(unknown)")),
    ];
    for (body, expected) in cases {
        let mut rig = Rig::new(READ);
        rig.host.open(5);
        rig.host.with_stream(5, |s| {
            s.request_headers.insert(":path".into(), "/v1/messages/count_tokens".into());
            s.response_headers.insert("content-type".into(), "application/json".into());
            s.response_headers.insert(":status".into(), "200".into());
        });
        rig.worker.on_request_headers(&rig.host, 5, true);
        rig.note_lease(5);
        rig.admit(5, "a:1");
        rig.respond(5, "a:1", 200);
        rig.host.with_stream(5, |s| s.response_chunk = body.clone().into_bytes());
        rig.worker.on_response_body(&rig.host, 5, body.len(), true);
        rig.end(5);
        let late = rig.last_settlement().request_body;
        assert_eq!(late.as_ref().map(|late| late.model.as_str()), expected, "{body}");
        assert!(late.is_none_or(|late| late.generation() == Generation::Unspecified));
    }
}
