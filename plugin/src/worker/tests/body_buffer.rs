//! Tests of reading request bodies, and of bodies that cannot be read.

use super::*;
use crate::metrics::Counter;

/// Sends a POST with these headers, whose body arrives in these chunks.
fn post(rig: &mut Rig, headers: &Headers, chunks: &[&[u8]]) -> Flow {
    rig.host.open(5);
    rig.host.with_stream(5, |s| {
        s.request_headers.extend(headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
    });
    let mut flow = rig.worker.on_request_headers(&rig.host, 5, false);
    for (i, chunk) in chunks.iter().enumerate() {
        let held = rig.host.with_stream(5, |s| {
            s.body.extend_from_slice(chunk);
            s.body.len()
        });
        flow = rig.worker.on_request_body(&rig.host, 5, held, i + 1 == chunks.len());
    }
    flow
}

/// Returns the model and prompt size of the last Admit; `None` if none was sent.
fn last_admit(rig: &Rig) -> Option<(String, u64)> {
    let admit = rig.host.admits().pop()?;
    Some((admit.model, admit.prompt_bytes))
}

/// Servers accept JSON with any content type. If the plugin did not, a client could avoid limits on models by sending
/// another content type.
#[test]
fn a_body_is_read_whatever_its_content_type() {
    let body: &[u8] = br#"{"model":"m1","prompt":"abc"}"#;
    let types: [&Headers; 5] = [
        &[],
        &[("content-type", "text/plain")],
        &[("content-type", "application/x-www-form-urlencoded")],
        &[("content-type", "application/octet-stream")],
        &[("content-type", "application/vnd.api+json"), ("content-encoding", "identity")],
    ];
    for headers in types {
        for chunks in [&[body][..], &[b" ", body], &[b"\xef\xbb\xbf", b"\r\n", &body[..9], &body[9..]]] {
            let mut rig = Rig::new(r#"{"read_body":true}"#);
            post(&mut rig, headers, chunks);
            assert_eq!(last_admit(&rig), Some(("m1".into(), 3)), "{headers:?}");
            assert_eq!(rig.host.count_of(Counter::BodyUnread), 0);
        }
    }
}

/// A request whose body cannot be read has the model `(unknown)`, so that limits on models apply to it.
#[test]
fn an_unreadable_body_gets_the_unknown_model() {
    const MAX: &str = r#""read_body":true,"body_bytes_max":40"#;
    let json: &Headers = &[("content-type", "application/json")];
    let cases: [(&Headers, &[&[u8]], u64, u32); 9] = [
        (json, &[br#"{"model":"m1"}{"model":"m2"}"#], 28, 415),
        (json, &[br#"{"model":"m1""#], 13, 415),
        (json, &[br#"[{"model":"m1"}]"#], 16, 415),
        (json, &[b"\x1f\x8b"], 2, 415),
        // The plugin recognizes that this is not JSON without waiting for the rest.
        (json, &[b" ", b"model=m1", b""], 9, 415),
        (&[("content-type", "multipart/form-data; boundary=x")], &[], 0, 415),
        (&[("content-encoding", "gzip"), ("content-type", "application/json")], &[], 0, 415),
        // An older Envoy delivers a body with a declared length without the body's last part.
        (&[("content-length", "14")], &[b""], 14, 415),
        (&[("content-length", "30")], &[br#"{"model":"m1","#], 30, 415),
    ];
    for (headers, chunks, bytes, status) in cases {
        let mut rig = Rig::new(&format!("{{{MAX}}}"));
        assert_eq!(post(&mut rig, headers, chunks), Flow::Pause);
        assert_eq!(last_admit(&rig), Some(("(unknown)".into(), bytes)), "{headers:?} {chunks:?}");
        assert_eq!(rig.host.admits().len(), 1);
        assert_eq!(rig.host.count_of(Counter::BodyUnread), 1);
        rig.admit(5, "a:1");
        assert_eq!(rig.resumed(5), 1);

        let mut rig = Rig::new(&format!(r#"{{{MAX},"on_unread_body":"refuse"}}"#));
        assert_eq!(post(&mut rig, headers, chunks), Flow::Pause, "never forwarded");
        assert_eq!(rig.host.with_stream(5, |s| s.response.clone()).unwrap().status, status);
        assert_eq!((last_admit(&rig), rig.resumed(5)), (None, 0));
        rig.end(5);
        assert!(rig.worker.lease_table().is_empty() && rig.settlements().is_empty());
    }
}

/// Admit carries what was read until then. The rest may be prompt.
#[test]
fn a_body_that_arrives_too_slowly_is_admitted_with_what_is_known() {
    for (config, expected) in [("admit", None), ("refuse", Some(408))] {
        let mut rig = Rig::new(&format!(r#"{{"read_body":true,"on_unread_body":"{config}"}}"#));
        rig.host.open(5);
        rig.worker.on_request_headers(&rig.host, 5, false);
        rig.host.with_stream(5, |s| s.body = br#"{"model":"#.to_vec());
        assert_eq!(rig.worker.on_request_body(&rig.host, 5, 9, false), Flow::Pause);
        rig.host.advance(1000);
        rig.tick();
        assert_eq!(rig.host.with_stream(5, |s| s.response.clone()).map(|response| response.status), expected);
        assert_eq!(last_admit(&rig), expected.is_none().then(|| ("(unknown)".into(), 0)));
        assert_eq!([Counter::BodyUnread, Counter::BodyTimeouts].map(|c| rig.host.count_of(c)), [1, 1]);
    }
}

/// The model in the path takes precedence, because Gemini and Azure run the model that the path names.
#[test]
fn the_model_in_the_path_takes_precedence() {
    let body: &[u8] = br#"{"model":"cheap"}"#;
    for (path, model) in [
        ("/v1beta/models/gemini%2Dpro:generateContent", "gemini-pro"),
        ("/openai/deployments/gpt-4o/chat/completions", "gpt-4o"),
        ("/v1/chat/completions", "cheap"),
    ] {
        let mut rig = Rig::new(r#"{"read_body":true}"#);
        post(&mut rig, &[(":path", path)], &[body]);
        assert_eq!(last_admit(&rig), Some((model.into(), 0)), "{path}");
    }
}

/// A server may have a default model. Limits on models count a request for it too.
#[test]
fn a_request_that_may_generate_and_names_no_model_has_the_unknown_model() {
    for body in
        [&b""[..], b"{}", br#"{"model":null}"#, br#"{"model":""}"#, br#"{"model":7}"#, br#"{"model":["m"]}"#]
    {
        let mut rig = Rig::new(r#"{"read_body":true,"on_unread_body":"refuse"}"#);
        post(&mut rig, &[], &[body]);
        assert_eq!(last_admit(&rig), Some(("(unknown)".into(), 0)), "{}", body.escape_ascii());
    }
    for method in ["POST", "PUT", "PATCH"] {
        let mut rig = Rig::new(r#"{"read_body":true}"#);
        post(&mut rig, &[(":method", method)], &[br#"{"model":"m1"}"#]);
        assert_eq!(last_admit(&rig), Some(("m1".into(), 0)), "{method}");
    }
    let mut rig = Rig::new(r#"{"read_body":true,"on_unread_body":"refuse"}"#);
    rig.arrive(5);
    assert_eq!(last_admit(&rig), Some(("(unknown)".into(), 0)));
    // Without `read_body`, no request has a model.
    let mut rig = Rig::new("");
    rig.arrive(5);
    assert_eq!(last_admit(&rig), Some((String::new(), 0)));
    // The plugin does not buffer the body of a GET.
    let mut rig = Rig::new(r#"{"read_body":true,"on_unread_body":"refuse"}"#);
    rig.host.open(5);
    rig.host.with_stream(5, |s| s.request_headers.insert(":method".into(), "GET".into()));
    rig.worker.on_request_headers(&rig.host, 5, false);
    assert_eq!(last_admit(&rig), Some((String::new(), 0)));
}

/// A request that names the model `(unknown)` itself counts like a request with an unreadable body.
#[test]
fn a_client_may_name_the_unknown_model() {
    let mut rig = Rig::new(r#"{"read_body":true}"#);
    post(&mut rig, &[], &[br#"{"model":"(unknown)"}"#]);
    assert_eq!(last_admit(&rig), Some(("(unknown)".into(), 0)));
}

#[test]
fn a_body_is_buffered_only_with_read_body() {
    let body = br#"{"model":"m1","messages":[{"content":"hello"}],"max_tokens":9}"#;
    let json = |rig: &Rig| {
        rig.host.open(5);
        rig.host.with_stream(5, |s| {
            s.request_headers.insert("content-type".into(), "application/json".into());
            s.body = body.to_vec();
        });
    };
    let mut rig = Rig::new("");
    json(&rig);
    rig.worker.on_request_headers(&rig.host, 5, false);
    assert_eq!((rig.last_admit().model.as_str(), rig.host.raised.borrow().len()), ("", 0));

    let mut rig = Rig::new(r#"{"read_body":true}"#);
    json(&rig);
    assert_eq!(rig.worker.on_request_headers(&rig.host, 5, false), Flow::Pause);
    assert_eq!(*rig.host.raised.borrow(), [5], "the gateway must hold the body");
    assert_eq!(rig.worker.on_request_body(&rig.host, 5, 10, false), Flow::Pause);
    assert!(rig.host.sent.borrow().is_empty());
    assert_eq!(rig.worker.on_request_body(&rig.host, 5, body.len(), true), Flow::Pause);
    let admit = rig.last_admit();
    assert_eq!((admit.model.as_str(), admit.prompt_bytes, admit.max_output_tokens), ("m1", 5, 9));
    rig.admit(5, "a:1");
    assert_eq!(rig.resumed(5), 1);
    assert_eq!(rig.worker.on_request_body(&rig.host, 5, 0, true), Flow::Continue);
}

#[test]
fn trailers_complete_a_body() {
    let mut rig = Rig::new(r#"{"read_body":true}"#);
    rig.host.open(5);
    rig.host.with_stream(5, |s| {
        s.request_headers.insert("content-type".into(), "application/json".into());
        s.body = br#"{"model":"m1"}"#.to_vec();
    });
    rig.worker.on_request_headers(&rig.host, 5, false);
    rig.worker.on_request_body(&rig.host, 5, 14, false);
    assert_eq!(rig.worker.on_request_trailers(&rig.host, 5), Flow::Pause);
    assert_eq!(rig.last_admit().model, "m1");
    assert_eq!(rig.worker.on_request_trailers(&rig.host, 5), Flow::Pause);
    rig.admit(5, "a:1");
    assert_eq!(rig.worker.on_request_trailers(&rig.host, 5), Flow::Continue);
}

#[test]
fn a_body_times_out() {
    let mut rig = Rig::new(r#"{"read_body":true,"body_wait_ms":200}"#);
    rig.tick();
    assert!(rig.host.tick_ms.get() <= 200);
    for (refuse, resumed) in [(false, 0), (true, 1)] {
        rig.host.open(5);
        rig.host
            .with_stream(5, |s| s.request_headers.insert("content-type".into(), "application/json".into()));
        assert_eq!(rig.worker.on_request_headers(&rig.host, 5, false), Flow::Pause);
        rig.host.advance(199);
        rig.tick();
        assert!(rig.worker.lease_table().is_empty());
        if refuse {
            rig.cut_off();
        }
        rig.host.advance(1);
        rig.tick();
        assert_eq!((rig.worker.lease_table().len(), rig.resumed(5)), (1, resumed));
        rig.end(5);
        rig.host.gone.borrow_mut().clear();
    }
    assert_eq!(rig.host.count_of(Counter::BodyTimeouts), 2);
}
