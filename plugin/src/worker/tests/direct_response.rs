//! Tests of requests that the sidecar answers itself.

use evenkeel_proto::v1::DirectResponse;

use super::*;
use crate::metrics::Counter;

const CONFIG: &str = r#"{"admin_paths":["/quota","/quota/delta"],"on_error":"open"}"#;

/// Sends a request for a path.
fn send(rig: &mut Rig, path: &str, body: Option<&[u8]>) -> Flow {
    rig.host.open(5);
    rig.host.with_stream(5, |s| {
        s.request_headers.insert(":path".into(), path.into());
        s.body = body.unwrap_or_default().to_vec();
    });
    let flow = rig.worker.on_request_headers(&rig.host, 5, body.is_none());
    match body {
        Some(body) => rig.worker.on_request_body(&rig.host, 5, body.len(), true),
        None => flow,
    }
}

fn direct_response() -> Answer {
    Answer::DirectResponse(DirectResponse {
        status: 200,
        headers: vec![header("content-type", "application/json"), header("bad name", "x")],
        body: b"{\"quota\":7}".to_vec(),
    })
}

fn status(rig: &Rig) -> u32 {
    rig.host.with_stream(5, |s| s.response.clone()).unwrap().status
}

#[test]
fn the_sidecars_response_reaches_the_client_and_no_lease_is_held() {
    let form: &[u8] = b"consumer=a&value=3";
    for (path, body) in [("/v1/chat/completions/quota?consumer=a", None), ("/x/quota/delta", Some(form))] {
        let mut rig = Rig::new(CONFIG);
        assert_eq!(send(&mut rig, path, body), Flow::Pause);
        let admit = rig.last_admit();
        let call = admit.admin_call.unwrap();
        assert_eq!((call.method.as_str(), call.body.as_slice()), ("POST", body.unwrap_or_default()));
        assert_eq!((admit.lease, admit.pool.unwrap().cluster.as_str()), (1, "llm"));
        assert_eq!(admit.subject.unwrap().path, path);
        assert!(rig.worker.lease_table().is_empty());
        rig.answer(5, 0, Some(direct_response()));
        let response = rig.host.with_stream(5, |s| s.response.clone()).unwrap();
        assert_eq!((response.status, response.body.as_slice()), (200, &b"{\"quota\":7}"[..]));
        assert_eq!(response.headers, [("content-type".into(), "application/json".into())]);
        assert_eq!(rig.resumed(5), 0);
        assert_eq!(rig.host.count_of(Counter::DirectResponses), 1);
        assert_eq!(rig.worker.on_request_body(&rig.host, 5, 9, true), Flow::Pause, "never forwarded");
        rig.end(5);
        assert!(rig.settlements().is_empty());
        assert_eq!(rig.list().issued_through, 1, "an issued number is not reused");
    }
}

#[test]
fn an_unanswered_admin_call_is_refused_and_never_forwarded() {
    let cases = [(14, None), (0, None), (0, Some(admitted("a:1", Basis::Shared)))];
    for (code, answer) in cases {
        let mut rig = Rig::new(CONFIG);
        send(&mut rig, "/quota", None);
        rig.answer(5, code, answer);
        assert_eq!((status(&rig), rig.resumed(5)), (503, 0));
        assert_eq!(rig.host.count_of(Counter::DirectResponsesFailed), 1);
        assert!(rig.worker.lease_table().is_empty());
    }
    for waits in [false, true] {
        let mut rig = Rig::new(CONFIG);
        if !waits {
            rig.cut_off();
        }
        assert_eq!(send(&mut rig, "/quota", None), Flow::Pause);
        for _ in 0..3 {
            rig.host.advance(if waits { 1000 } else { 0 });
            rig.tick();
        }
        assert_eq!((status(&rig), rig.resumed(5)), (503, 0));
        assert!(rig.worker.admissions.is_empty());
    }
}

#[test]
fn an_invalid_admin_call_is_answered_400() {
    let mut rig = Rig::new(CONFIG);
    send(&mut rig, "/quota", None);
    rig.answer(5, 3, None);
    assert_eq!((status(&rig), rig.host.count_of(Counter::DirectResponsesFailed)), (400, 1));
    assert!(!rig.host.logs.borrow().iter().any(|(_, line)| line.contains("no answer")));
}

#[test]
fn an_admin_call_may_be_denied() {
    let mut rig = Rig::new(CONFIG);
    send(&mut rig, "/quota", None);
    rig.answer(5, 0, Some(denied()));
    assert_eq!(status(&rig), 429);
}

#[test]
fn an_oversized_body_is_refused() {
    for length in [None, Some("65537")] {
        let mut rig = Rig::new(CONFIG);
        rig.host.open(5);
        rig.host.with_stream(5, |s| {
            s.request_headers.insert(":path".into(), "/quota".into());
            length.map(|l| s.request_headers.insert("content-length".into(), l.into()));
        });
        assert_eq!(rig.worker.on_request_headers(&rig.host, 5, false), Flow::Pause);
        if length.is_none() {
            assert_eq!(rig.worker.on_request_body(&rig.host, 5, 65536, false), Flow::Pause);
            assert_eq!(rig.worker.on_request_body(&rig.host, 5, 65537, false), Flow::Pause);
        }
        assert_eq!(status(&rig), 413);
        assert!(rig.host.sent.borrow().is_empty());
    }
}

#[test]
fn a_late_body_is_refused() {
    let mut rig = Rig::new(CONFIG);
    rig.host.open(5);
    rig.host.with_stream(5, |s| s.request_headers.insert(":path".into(), "/quota".into()));
    rig.worker.on_request_headers(&rig.host, 5, false);
    rig.host.advance(1000);
    rig.tick();
    rig.host.effective.set(5);
    assert_eq!((status(&rig), rig.resumed(5)), (408, 0));
}

/// An upstream may resolve each of these paths to a path that the sidecar answers.
#[test]
fn the_path_is_compared_as_a_server_reads_it() {
    for path in ["/v1/quota/", "/v1//%71uota", "/v1%2Fquota", "/v1/./quota", "/v1/x/../quota//"] {
        let mut rig = Rig::new(r#"{"admin_paths":["/quota/"]}"#);
        assert_eq!(send(&mut rig, &format!("{path}?consumer=a%2Fb"), None), Flow::Pause);
        let admit = rig.last_admit();
        assert!(admit.admin_call.is_some(), "{path}");
        assert_eq!(admit.subject.unwrap().path, "/v1/quota?consumer=a%2Fb");
    }
}

#[test]
fn other_paths_go_upstream() {
    for path in ["/v1/chat/completions", "/quotas", "/quota/other", "/v1?x=/quota"] {
        let mut rig = Rig::new(CONFIG);
        send(&mut rig, path, None);
        assert_eq!(rig.last_admit().admin_call, None, "{path}");
        rig.answer(5, 0, Some(direct_response()));
        assert_eq!((rig.host.with_stream(5, |s| s.response.clone()), rig.resumed(5)), (None, 1));
    }
    let mut rig = Rig::new("");
    send(&mut rig, "/quota", None);
    assert_eq!(rig.last_admit().admin_call, None);
}
