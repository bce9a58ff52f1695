//! A client that keeps the worker busy, or sends long headers, gets no request through.

use super::*;
use crate::metrics::Counter;

fn standing() -> Answer {
    let Answer::Denied(denied) = denied() else { unreachable!() };
    Answer::Denied(Denied { stands_ms: 5000, stands_for: vec!["consumer".into()], ..denied })
}

fn arrive_as(rig: &mut Rig, context: u32, consumer: &str) -> Flow {
    rig.host.open(context);
    rig.host.with_stream(context, |s| s.request_headers.insert("x-mse-consumer".into(), consumer.into()));
    let flow = rig.worker.on_request_headers(&rig.host, context, true);
    rig.note_lease(context);
    flow
}

fn status(rig: &Rig, context: u32) -> Option<u32> {
    rig.host.with_stream(context, |s| s.response.clone()).map(|response| response.status)
}

/// A worker that was busy beyond the deadline first reads what the sidecar has sent meanwhile.
#[test]
fn an_answer_that_has_arrived_goes_before_the_deadline() {
    let mut rig = Rig::new("");
    for (context, answer) in [(5, denied()), (6, admitted("a:1", Basis::Shared))] {
        rig.arrive(context);
        rig.host.advance(500);
        rig.tick();
        assert_eq!((rig.resumed(context), rig.host.tick_ms.get()), (0, 1), "the next tick comes soon");
        rig.answer(context, 0, Some(answer));
        rig.host.advance(1);
        rig.tick();
    }
    assert_eq!((status(&rig, 5), rig.resumed(6)), (Some(429), 1));
    assert_eq!([Counter::FailOpen, Counter::AdmitsTimeout].map(|counter| rig.host.count_of(counter)), [0, 0]);
}

#[test]
fn a_standing_refusal_is_honoured_when_an_answer_is_late() {
    let mut rig = Rig::new("");
    // The first refusal teaches the attributes.
    for context in [5, 6] {
        arrive_as(&mut rig, context, "alice");
        rig.answer(context, 0, Some(standing()));
    }
    arrive_as(&mut rig, 7, "alice");
    arrive_as(&mut rig, 8, "bob");
    rig.miss_deadlines();
    assert_eq!((status(&rig, 7), rig.resumed(7)), (Some(429), 0));
    assert_eq!((status(&rig, 8), rig.resumed(8)), (None, 1));
    let counts = [Counter::FailRefused, Counter::FailOpen, Counter::AdmitsTimeout];
    assert_eq!(counts.map(|counter| rig.host.count_of(counter)), [1, 1, 2]);
    // Without a stream too, and no longer than the refusal stands.
    rig.cut_off();
    assert_eq!((arrive_as(&mut rig, 9, "alice"), status(&rig, 9)), (Flow::Pause, Some(429)));
    rig.host.advance(5000);
    assert_eq!(arrive_as(&mut rig, 10, "alice"), Flow::Continue);
}

/// A late refusal is remembered too: under attack, most answers are late.
#[test]
fn a_late_refusal_stands_for_the_next_request() {
    let mut rig = Rig::new("");
    arrive_as(&mut rig, 5, "alice");
    rig.answer(5, 0, Some(standing()));
    arrive_as(&mut rig, 6, "alice");
    rig.miss_deadlines();
    assert_eq!(rig.resumed(6), 1);
    rig.answer(6, 0, Some(standing()));
    arrive_as(&mut rig, 7, "alice");
    rig.miss_deadlines();
    assert_eq!(status(&rig, 7), Some(429));
}

#[test]
fn requests_go_on_at_most_at_the_configured_rate() {
    let mut rig = Rig::new(r#"{"open_per_second":2}"#);
    rig.cut_off();
    let flows: Vec<_> = (5..10).map(|context| rig.arrive(context)).collect();
    assert_eq!(flows, [Flow::Continue, Flow::Continue, Flow::Pause, Flow::Pause, Flow::Pause]);
    assert_eq!(status(&rig, 7), Some(503));
    let counts = [Counter::FailOpen, Counter::FailClosed, Counter::FailOpenLimited];
    assert_eq!(counts.map(|counter| rig.host.count_of(counter)), [2, 3, 3]);
    rig.host.advance(500);
    assert_eq!([rig.arrive(11), rig.arrive(12)], [Flow::Continue, Flow::Pause]);
}

#[test]
fn a_deadline_of_the_sidecar_counts_as_a_timeout() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.answer(5, 4, None);
    let counts = [Counter::AdmitsTimeout, Counter::AdmitsFailed];
    assert_eq!(counts.map(|counter| rig.host.count_of(counter)), [1, 0]);
}

#[test]
fn long_headers_are_bounded_before_they_are_sent() {
    let names: Vec<_> = (0..20).map(|i| format!("x-{i}")).collect();
    let config = serde_json::json!({ "pass_headers": names.iter().map(String::as_str).chain(["cookie"]).collect::<Vec<_>>() });
    let admit = |path: String, cookie: String, value: &str| {
        let mut rig = Rig::new(&config.to_string());
        rig.host.open(5);
        rig.host.with_stream(5, |s| {
            s.request_headers.insert(":path".into(), path);
            s.request_headers.insert("cookie".into(), cookie);
            for name in &names {
                s.request_headers.insert(name.clone(), value.to_owned());
            }
        });
        rig.worker.on_request_headers(&rig.host, 5, true);
        (status(&rig, 5), rig.host.admits().pop(), rig.worker.lease_table.is_empty())
    };
    let (_, request, _) = admit("/p".into(), "c".into(), &"v".repeat(45_000));
    let headers = request.unwrap().subject.unwrap().headers;
    assert_eq!(headers.len(), 21, "no header is left out");
    let bytes: usize = headers.values().map(String::len).sum();
    assert!((16_000..18_000).contains(&bytes), "{bytes}");
    let whole = "/".repeat(16 << 10);
    let (_, request, _) = admit(whole.clone(), whole.clone(), "v");
    let subject = request.unwrap().subject.unwrap();
    assert_eq!((subject.path.len(), subject.headers["cookie"].len()), (16 << 10, 16 << 10));
    for (path, cookie) in [(whole.clone() + "?", String::new()), ("/".into(), whole.clone() + "é")] {
        let (status, request, is_empty) = admit(path, cookie, "v");
        assert_eq!((status, request, is_empty), (Some(431), None, true));
    }
}
