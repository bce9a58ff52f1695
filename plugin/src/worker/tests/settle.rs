//! Tests of the end of a request.

use super::{super::request::TICKET_BYTES_MAX, *};
use crate::metrics::Counter;

#[test]
fn every_ending_is_settled_with_its_outcome() {
    const UF: u64 = 1 << 5;
    const UC: u64 = 1 << 6;
    const UT: u64 = 1 << 2;
    const DC: u64 = 1 << 14;
    let cases = [
        ("complete", 200, 0, Outcome::Success),
        ("not found", 404, 0, Outcome::ClientError),
        ("failed", 500, 0, Outcome::ServerError),
        ("connection refused", 503, UF, Outcome::UpstreamReset),
        ("cut off by the upstream", 200, UC, Outcome::UpstreamReset),
        ("client disconnected", 200, DC, Outcome::ClientAbort),
        ("route timeout", 504, UT, Outcome::Timeout),
    ];
    for (what, status, flags, outcome) in cases {
        let mut rig = Rig::new("");
        rig.arrive(5);
        rig.host.advance(7);
        rig.admit(5, "a:1");
        rig.respond(5, "a:1", status);
        rig.host.set_property(5, "response.flags", &u64::to_le_bytes(flags));
        rig.host.advance(3);
        rig.end(5);
        let settle = rig.last_settlement();
        assert_eq!(settle.outcome(), outcome, "{what}");
        assert_eq!((settle.lease, settle.status, settle.total_ms), (1, status as u32, 10), "{what}");
        assert_eq!(settle.pool.unwrap().cluster, "llm");
        assert!(rig.worker.lease_table().is_empty());
    }
}

#[test]
fn time_to_first_token_starts_at_admit() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.host.advance(7);
    rig.admit(5, "a:1");
    rig.respond(5, "a:1", 200);
    rig.worker.on_response_body(&rig.host, 5, 0, false);
    rig.host.advance(5);
    rig.worker.on_response_body(&rig.host, 5, 10, false);
    rig.host.advance(20);
    rig.worker.on_response_body(&rig.host, 5, 10, false);
    rig.end(5);
    let settle = rig.last_settlement();
    assert_eq!((settle.first_token_ms, settle.total_ms), (12, 32));
}

#[test]
fn the_gateways_own_body_has_no_first_token() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.admit(5, "a:1");
    rig.host.set_property(
        5,
        "response.code_details",
        b"upstream_reset_before_response_started{connection_failure}",
    );
    rig.respond(5, "a:1", 503);
    rig.worker.on_response_body(&rig.host, 5, 10, false);
    rig.end(5);
    assert_eq!(rig.last_settlement().first_token_ms, 0);
}

#[test]
fn a_response_without_body_has_no_first_token() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.admit(5, "a:1");
    rig.respond(5, "a:1", 404);
    rig.end(5);
    assert_eq!(rig.last_settlement().first_token_ms, 0);
}

#[test]
fn a_request_denied_by_a_later_filter_was_not_sent() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.admit(5, "a:1");
    rig.host.effective.set(5);
    rig.host.set_property(5, "response.code", &403_u64.to_le_bytes());
    rig.worker.on_response_headers(&rig.host, 5);
    rig.end(5);
    assert_eq!(rig.outcome(), Outcome::NotSent);
}

#[test]
fn a_stream_that_ends_before_the_answer_cancels_its_lease() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.end(5);
    assert!(rig.worker.lease_table().is_empty());
    assert_eq!(rig.cancelled(), [1]);
    // When the late answer arrives, the stream no longer exists.
    rig.admit(5, "a:1");
    assert_eq!(rig.resumed(5), 0);
    assert_eq!((rig.settlements().len(), rig.cancelled().len()), (0, 1));
}

#[test]
fn a_stream_that_ends_before_its_admit_was_sent_tells_the_sidecar_nothing() {
    let mut rig = Rig::unconnected("");
    rig.arrive(5);
    rig.end(5);
    rig.tick();
    rig.welcome();
    assert!(rig.host.admits().is_empty() && rig.cancelled().is_empty() && rig.settlements().is_empty());
    assert!(rig.worker.lease_table().is_empty());
}

#[test]
fn an_answer_after_the_gateways_own_response_is_not_applied() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.worker.on_response_headers(&rig.host, 5);
    rig.admit(5, "a:1");
    assert_eq!((rig.resumed(5), rig.header(5, crate::config::ENDPOINT_HEADER)), (0, None));
    rig.end(5);
    assert_eq!((rig.cancelled(), rig.settlements().len()), (vec![1], 0));
}

/// Guards against a request that is neither charged nor recorded.
#[test]
fn a_request_that_went_on_is_settled_with_the_ticket_of_the_late_answer() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.miss_deadlines();
    assert_eq!((rig.resumed(5), rig.cancelled()), (1, vec![]));
    let (ticket, show_ticket) = (vec![7; 20], true);
    let late = Admitted { endpoint: "a:1".into(), ticket, show_ticket, ..Admitted::default() };
    rig.answer(5, 0, Some(Answer::Admitted(late)));
    assert_eq!((rig.resumed(5), rig.header(5, crate::config::ENDPOINT_HEADER)), (1, None));
    assert_eq!(rig.host.count_of(Counter::AdmitsLate), 1);
    rig.respond(5, "b:1", 200);
    let list = rig.list();
    assert_eq!((&list.pools[0].endpoints, &list.pools[0].tickets), (&vec!["b:1".into()], &vec![vec![7; 20]]));
    rig.end(5);
    let settlement = rig.last_settlement();
    assert_eq!((rig.outcome(), &settlement.ticket[..]), (Outcome::Success, &[7; 20][..]));
    assert!(rig.cancelled().is_empty());
}

#[test]
fn a_late_refusal_changes_nothing() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.miss_deadlines();
    rig.answer(5, 0, Some(Answer::Denied(Denied { status: 429, ..Denied::default() })));
    assert_eq!(rig.resumed(5), 1);
    assert!(rig.host.with_stream(5, |s| s.response.is_none()));
    rig.respond(5, "b:1", 200);
    rig.end(5);
    assert_eq!((rig.outcome(), rig.last_settlement().ticket.len()), (Outcome::Success, 0));
}

#[test]
fn ending_twice_settles_once() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.admit(5, "a:1");
    rig.end(5);
    rig.end(5);
    assert_eq!(rig.settlements().len(), 1);
}

#[test]
fn settle_returns_the_ticket() {
    for (bytes, kept) in [(0, true), (TICKET_BYTES_MAX, true), (TICKET_BYTES_MAX + 1, false)] {
        let mut rig = Rig::new("");
        rig.arrive(5);
        let ticket = vec![0xfe; bytes];
        let admitted = Admitted { endpoint: "a:1".into(), ticket: ticket.clone(), ..Admitted::default() };
        rig.answer(5, 0, Some(Answer::Admitted(admitted)));
        assert_eq!(rig.resumed(5), 1);
        rig.end(5);
        let settle = rig.last_settlement();
        assert_eq!(settle.ticket, if kept { ticket } else { Vec::new() }, "{bytes} bytes");
        assert_eq!(rig.host.count_of(Counter::TicketsDropped), u64::from(!kept));
    }
}

#[test]
fn a_stream_whose_body_was_still_buffered_has_nothing_to_settle() {
    let mut rig = Rig::new(r#"{"read_body":true}"#);
    rig.host.open(5);
    rig.host.with_stream(5, |s| s.request_headers.insert("content-type".into(), "application/json".into()));
    rig.worker.on_request_headers(&rig.host, 5, false);
    rig.end(5);
    assert!(rig.host.sent.borrow().is_empty());
}
