//! Tests of the end of a request.

use super::{
    super::{keep_alive::SETTLED_MAX, request::TICKET_BYTES_MAX},
    *,
};
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
        let call = rig.host.last_call(Method::Settle);
        assert_eq!(call.context, ROOT, "a call of the stream would be cancelled with it");
        let settle = call.settle();
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
    let settle = rig.host.last_call(Method::Settle).settle();
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
    assert_eq!(rig.host.last_call(Method::Settle).settle().first_token_ms, 0);
}

#[test]
fn a_response_without_body_has_no_first_token() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.admit(5, "a:1");
    rig.respond(5, "a:1", 404);
    rig.end(5);
    assert_eq!(rig.host.last_call(Method::Settle).settle().first_token_ms, 0);
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
fn a_stream_that_ends_before_the_answer_settles_its_lease() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.end(5);
    assert_eq!(rig.outcome(), Outcome::NotSent);
    assert!(rig.worker.lease_table().is_empty());
    // When the late answer arrives, the stream no longer exists.
    rig.admit(5, "a:1");
    assert_eq!(rig.resumed(5), 0);
    assert_eq!(rig.host.calls_of(Method::Settle).len(), 1);
}

#[test]
fn an_answer_after_the_gateways_own_response_is_not_applied() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.worker.on_response_headers(&rig.host, 5);
    rig.admit(5, "a:1");
    assert_eq!((rig.resumed(5), rig.header(5, crate::config::ENDPOINT_HEADER)), (0, None));
    rig.end(5);
    assert_eq!(rig.outcome(), Outcome::NotSent);
}

#[test]
fn a_lease_whose_admit_timed_out_is_settled_at_the_end() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.answer(5, 4, None);
    rig.respond(5, "b:1", 200);
    rig.end(5);
    assert_eq!(rig.outcome(), Outcome::Success);
}

#[test]
fn a_late_second_answer_changes_nothing() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.answer(5, 4, None);
    rig.admit(5, "a:1");
    assert_eq!(rig.resumed(5), 1);
}

#[test]
fn ending_twice_settles_once() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.admit(5, "a:1");
    rig.end(5);
    rig.end(5);
    assert_eq!(rig.host.calls_of(Method::Settle).len(), 1);
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
        let settle = rig.host.last_call(Method::Settle).settle();
        assert_eq!(settle.ticket, if kept { ticket } else { Vec::new() }, "{bytes} bytes");
        assert_eq!(rig.host.count_of(Counter::TicketsDropped), u64::from(!kept));
    }
}

#[test]
fn without_an_answer_settle_has_no_ticket() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.end(5);
    assert!(rig.host.last_call(Method::Settle).settle().ticket.is_empty());
}

#[test]
fn a_settle_that_cannot_be_sent_is_dropped() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.admit(5, "a:1");
    rig.host.refuse_calls.set(true);
    rig.end(5);
    assert_eq!(rig.host.count_of(Counter::SettlesFailed), 1);
    rig.host.refuse_calls.set(false);
    // The next KeepAlive does not list the issued lease, so the sidecar drops it.
    let list = rig.list();
    assert_eq!(list.issued_through, 1);
    assert!(list.pools[0].leases.is_empty());
}

fn keep_alive_answered(rig: &mut Rig, status: u32) {
    let token = rig.host.last_call(Method::KeepAlive).token;
    rig.host.effective.set(ROOT);
    rig.worker.on_answer(&rig.host, token, status, &[]);
}

/// Settles that were sent while a KeepAlive was pending are repeated, because the KeepAlive may restore their leases.
#[test]
fn settles_during_a_keep_alive_are_repeated() {
    for status in [0, 4, 14] {
        let mut rig = Rig::new("");
        for context in 5..8 {
            rig.arrive(context);
            rig.admit(context, "a:1");
        }
        rig.end(5);
        rig.tick();
        rig.end(6);
        rig.arrive(8); // issued after the list was built, so the KeepAlive cannot restore it
        rig.admit(8, "a:1");
        rig.end(8);
        assert_eq!(rig.host.calls_of(Method::Settle).len(), 3);
        keep_alive_answered(&mut rig, status);
        let settles = rig.host.calls_of(Method::Settle);
        assert_eq!(settles.iter().map(|s| s.settle().lease).collect::<Vec<_>>(), [1, 2, 4, 2], "{status}");
        assert_eq!((&settles[3].message, settles[3].context), (&settles[1].message, ROOT));
        assert_eq!(rig.host.count_of(Counter::SettlesRepeated), 1);
        // The plugin repeats a Settle only once, and does not repeat a Settle that was sent while no KeepAlive was
        // pending.
        rig.end(7);
        keep_alive_answered(&mut rig, status);
        assert_eq!(rig.host.calls_of(Method::Settle).len(), 5);
    }
}

#[test]
fn a_settle_that_failed_during_a_keep_alive_is_sent_after_it() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.admit(5, "a:1");
    rig.tick();
    rig.host.refuse_calls.set(true);
    rig.end(5);
    rig.host.refuse_calls.set(false);
    keep_alive_answered(&mut rig, 0);
    assert_eq!(rig.host.last_call(Method::Settle).settle().lease, 1);
    assert_eq!(
        (rig.host.count_of(Counter::SettlesFailed), rig.host.count_of(Counter::SettlesRepeated)),
        (1, 1)
    );
}

#[test]
fn a_keep_alive_corrects_what_a_lost_one_may_have_restored() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.admit(5, "a:1");
    rig.tick();
    rig.end(5);
    let list = rig.list();
    assert_eq!((list.issued_through, list.pools[0].leases.len()), (1, 0));
    keep_alive_answered(&mut rig, 0);
    assert_eq!(rig.host.calls_of(Method::Settle).len(), 1);
}

#[test]
fn recorded_settles_are_bounded() {
    let mut rig = Rig::new("");
    let contexts = 2..SETTLED_MAX as u32 + 12;
    for context in contexts.clone() {
        rig.arrive(context);
        rig.admit(context, "a:1");
    }
    rig.tick();
    for context in contexts {
        rig.end(context);
    }
    keep_alive_answered(&mut rig, 0);
    assert_eq!(rig.host.count_of(Counter::SettlesRepeated), SETTLED_MAX as u64);
    assert!(rig.list().pools[0].leases.is_empty(), "the next one corrects the rest");
}

#[test]
fn a_stream_whose_body_was_still_buffered_has_nothing_to_settle() {
    let mut rig = Rig::new(r#"{"read_body":true}"#);
    rig.host.open(5);
    rig.host.with_stream(5, |s| s.request_headers.insert("content-type".into(), "application/json".into()));
    rig.worker.on_request_headers(&rig.host, 5, false);
    rig.end(5);
    assert!(rig.host.calls.borrow().is_empty());
}
