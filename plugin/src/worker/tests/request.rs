//! Tests of sending Admit and applying its answer.

use super::*;
use crate::{config::ENDPOINT_HEADER, host::Level, metrics::Counter};

#[test]
fn a_request_without_a_cluster_goes_on_without_admit() {
    let mut rig = Rig::new("");
    rig.host.open(5);
    rig.host.with_stream(5, |s| s.properties.clear());
    assert_eq!(rig.worker.on_request_headers(&rig.host, 5, true), Flow::Continue);
    rig.end(5);
    assert!(rig.host.sent.borrow().is_empty());
}

#[test]
fn the_endpoint_is_applied_in_each_mode() {
    let name = r#"{"apply":{"mode":"name","header":"x-provider"},"pool":{"cluster":"c"}}"#;
    let cases = [
        ("", ENDPOINT_HEADER),
        (r#"{"apply":{"header":"x-other"}}"#, "x-other"),
        (r#"{"apply":{"mode":"original_dst"}}"#, "x-envoy-original-dst-host"),
        (name, "x-provider"),
    ];
    for (config, header) in cases {
        let mut rig = Rig::new(config);
        assert_eq!(rig.arrive(5), Flow::Pause);
        rig.admit(5, "10.0.0.1:80");
        assert_eq!(rig.header(5, header).as_deref(), Some("10.0.0.1:80"), "{config}");
        assert_eq!(rig.resumed(5), 1);
        assert_eq!(rig.host.count_of(Counter::AdmitsShared), 1);
    }
}

#[test]
fn a_client_cannot_choose_the_endpoint() {
    let cases = [
        ("", ENDPOINT_HEADER),
        (r#"{"apply":{"mode":"original_dst"}}"#, "x-envoy-original-dst-host"),
        (r#"{"apply":{"mode":"name","header":"x-provider"},"pool":{"cluster":"c"}}"#, "x-provider"),
    ];
    for (config, header) in cases {
        let mut rig = Rig::new(config);
        rig.cut_off();
        rig.host.open(5);
        rig.host.with_stream(5, |s| s.request_headers.insert(header.into(), "10.6.6.6:80".into()));
        assert_eq!(rig.worker.on_request_headers(&rig.host, 5, true), Flow::Continue);
        assert_eq!(rig.header(5, header), None, "{config}");
    }
}

#[test]
fn valid_headers_of_the_answer_are_added() {
    let mut rig = Rig::new(r#"{"report_header":"x-placed"}"#);
    rig.arrive(5);
    let answer = Answer::Admitted(Admitted {
        endpoint: "a:1".into(),
        basis: Basis::Local.into(),
        request_headers: vec![header("x-up", "1"), header(":path", "/"), header("x-bad", "a\r\nb: c")],
        response_headers: vec![header("x-left", "7"), header("bad name", "1")],
        ..Admitted::default()
    });
    rig.answer(5, 0, Some(answer));
    assert_eq!(rig.header(5, "x-up").as_deref(), Some("1"));
    assert_eq!(rig.header(5, "x-bad"), None);
    assert_eq!(rig.header(5, ":path").as_deref(), Some("/v1/chat/completions?a=b"));
    rig.respond(5, "a:1", 200);
    let headers = rig.host.with_stream(5, |s| s.response_headers.clone());
    let expected = [("x-left", "7"), ("x-placed", "local a:1")].map(|(n, v)| (n.to_owned(), v.to_owned()));
    assert_eq!(headers.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn a_denied_request_gets_the_sidecars_response_and_holds_no_lease() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.answer(5, 0, Some(denied()));
    let response = rig.host.with_stream(5, |s| s.response.clone()).unwrap();
    assert_eq!((response.status, response.body.as_slice()), (429, b"{}".as_slice()));
    assert_eq!(response.headers[0], ("retry-after".into(), "2".into()));
    assert_eq!(rig.resumed(5), 0);
    assert!(rig.worker.lease_table().is_empty());
    rig.end(5);
    assert!(rig.settlements().is_empty());
    assert_eq!(rig.host.count_of(Counter::AdmitsDenied), 1);
}

#[test]
fn a_denial_without_a_valid_status_is_a_503() {
    for status in [0, 100, 999] {
        let mut rig = Rig::new("");
        rig.arrive(5);
        rig.answer(5, 0, Some(Answer::Denied(Denied { status, ..Denied::default() })));
        assert_eq!(rig.host.with_stream(5, |s| s.response.clone()).unwrap().status, 503);
    }
}

#[test]
fn an_unanswered_request_goes_on_with_an_unknown_endpoint() {
    for (code, counter) in [
        (None, Counter::AdmitsTimeout),
        (Some(14), Counter::AdmitsFailed),
        (Some(4), Counter::AdmitsTimeout),
        (Some(0), Counter::AdmitsFailed),
    ] {
        let mut rig = Rig::new("");
        assert_eq!(rig.arrive(5), Flow::Pause);
        match code {
            Some(code) => rig.answer(5, code, None),
            None => rig.miss_deadlines(),
        }
        assert_eq!((rig.resumed(5), rig.header(5, ENDPOINT_HEADER)), (1, None));
        assert_eq!((rig.host.count_of(counter), rig.host.count_of(Counter::FailOpen)), (1, 1));
        let list = rig.list();
        assert_eq!((&list.pools[0].leases[..], &list.pools[0].endpoint_of[..]), (&[1][..], &[0][..]));
    }
}

/// Guards against a client that bypasses every limit by making the sidecar reject its Admit.
#[test]
fn an_invalid_admit_is_refused_whatever_on_error_says() {
    for on_error in ["open", "closed"] {
        let mut rig = Rig::new(&format!(r#"{{"on_error":"{on_error}"}}"#));
        for context in [5, 6] {
            rig.arrive(context);
            rig.answer(context, 3, None);
            let response = rig.host.with_stream(context, |s| s.response.clone()).unwrap();
            assert_eq!((response.status, rig.resumed(context)), (400, 0));
            assert!(serde_json::from_slice::<serde_json::Value>(&response.body).is_ok());
            assert_eq!(
                rig.worker.on_request_body(&rig.host, context, 9, true),
                Flow::Pause,
                "never forwarded"
            );
            rig.end(context);
        }
        assert!(rig.worker.lease_table().is_empty() && rig.settlements().is_empty());
        let counted = [Counter::AdmitsInvalid, Counter::AdmitsFailed, Counter::FailOpen, Counter::FailClosed];
        assert_eq!(counted.map(|counter| rig.host.count_of(counter)), [2, 0, 0, 0]);
        assert_eq!(rig.host.logs.borrow().len(), 1, "{:?}", rig.host.logs.borrow());
    }
}

#[test]
fn without_a_stream_in_time_the_request_goes_on_at_once() {
    let mut rig = Rig::new("");
    rig.cut_off();
    assert_eq!(rig.arrive(5), Flow::Continue);
    assert_eq!(rig.resumed(5), 0);
    assert_eq!(rig.worker.lease_table().len(), 1);
    assert_eq!(rig.host.count_of(Counter::FailOpen), 1);
}

#[test]
fn on_error_closed_answers_503_with_retry_after_and_json() {
    for (what, cancelled) in [("no stream", 0), ("an error", 0), ("the deadline", 1)] {
        let mut rig = Rig::new(r#"{"on_error":"closed"}"#);
        if what == "no stream" {
            rig.cut_off();
        }
        assert_eq!(rig.arrive(5), Flow::Pause);
        match what {
            "an error" => rig.answer(5, 4, None),
            _ => rig.miss_deadlines(),
        }
        let response = rig.host.with_stream(5, |s| s.response.clone()).unwrap();
        assert_eq!(response.status, 503);
        assert!(response.headers.contains(&("retry-after".into(), "1".into())));
        assert!(serde_json::from_slice::<serde_json::Value>(&response.body).is_ok());
        assert_eq!(rig.resumed(5), 0);
        assert_eq!(rig.host.count_of(Counter::FailClosed), 1);
        rig.end(5);
        assert!(rig.worker.lease_table().is_empty());
        // The sidecar may have granted the lease after the deadline.
        assert_eq!((rig.cancelled().len(), rig.settlements().len()), (cancelled, 0), "{what}");
    }
}

#[test]
fn an_open_answer_leaves_the_choice_to_the_gateway() {
    let mut rig = Rig::new(r#"{"report_header":"x-placed"}"#);
    rig.arrive(5);
    rig.answer(5, 0, Some(admitted("", Basis::Open)));
    assert_eq!((rig.resumed(5), rig.header(5, ENDPOINT_HEADER)), (1, None));
    assert_eq!(rig.host.count_of(Counter::AdmitsOpen), 1);
    assert_eq!(rig.host.count_of(Counter::FailOpen), 0);
    rig.respond(5, "b:1", 200);
    assert_eq!(rig.host.with_stream(5, |s| s.response_headers["x-placed"].clone()), "open");
    assert_eq!(rig.list().pools[0].endpoints, ["b:1"]);
}

#[test]
fn candidates_are_taken_in_turn_if_only_a_header_selects_the_endpoint() {
    let mut rig = Rig::new(
        r#"{"apply":{"mode":"name","header":"x-provider"},"pool":{"cluster":"c"},
            "candidates":[{"address":"p0"},{"address":"p1"}]}"#,
    );
    rig.cut_off();
    rig.arrive(5);
    rig.arrive(6);
    assert_eq!(rig.header(5, "x-provider").as_deref(), Some("p1"));
    assert_eq!(rig.header(6, "x-provider").as_deref(), Some("p0"));
}

#[test]
fn an_invalid_configuration_is_rejected_with_every_fault_logged() {
    let host = Mock::new();
    let mut worker = Worker::new(ROOT, "holder".into());
    assert!(!worker.configure(&host, br#"{"deadline_ms":0,"typo":1}"#));
    let logs = host.logs.borrow();
    assert_eq!(logs.len(), 2);
    assert!(logs.iter().all(
        |(level, line)| *level == Level::Error && line.starts_with("evenkeel: configuration rejected: ")
    ));
    assert_eq!(host.tick_ms.get(), 0);
}

#[test]
fn the_holder_is_logged_when_it_is_configured() {
    let host = Mock::new();
    let mut worker = Worker::new(ROOT, "holder".into());
    assert!(worker.configure(&host, b""));
    worker.on_tick(&host);
    assert_eq!(*host.logs.borrow(), [(Level::Info, "evenkeel: holder holder, root 1".to_owned())]);
}

#[test]
fn changes_of_connectivity_are_logged_once() {
    let mut rig = Rig::new("");
    for context in 5..9 {
        rig.arrive(context);
        rig.answer(context, 14, None);
    }
    assert_eq!(rig.host.logs.borrow().len(), 1);
    assert!(
        rig.host.logs.borrow()[0]
            .1
            .contains("the sidecar does not answer ([\"evenkeel\"]: Admit failed: code 14 m)")
    );
    for context in 9..12 {
        rig.arrive(context);
        rig.admit(context, "a:1");
    }
    assert_eq!(rig.host.logs.borrow().len(), 1, "not more than one line in a while");
    rig.pass(5000);
    rig.tick();
    assert_eq!(rig.host.logs.borrow().len(), 2);
    assert!(rig.host.logs.borrow()[1].1.contains("answers again"));
}

#[cfg(feature = "higress")]
#[test]
fn higress_lists_its_healthy_hosts_and_receives_the_chosen_one() {
    let mut rig = Rig::new(r#"{"apply":{"mode":"higress"},"candidates":[{"address":"a:1","weight":3}]}"#);
    let about = |health: &str| format!(r#"{{"health_status":"{health}"}}"#);
    *rig.host.hosts.borrow_mut() = vec![
        ("a:1".into(), about("Healthy")),
        ("b:1".into(), about("Unhealthy")),
        ("c:1".into(), about("Healthy")),
    ];
    rig.arrive(5);
    let candidates = rig.last_admit().candidates;
    let offered: Vec<_> = candidates.iter().map(|c| (c.address.as_str(), c.weight)).collect();
    assert_eq!(offered, [("a:1", 3.0), ("c:1", 0.0)]);
    rig.admit(5, "c:1");
    assert_eq!(*rig.host.overridden.borrow(), [(5, "c:1".to_owned())]);
}
