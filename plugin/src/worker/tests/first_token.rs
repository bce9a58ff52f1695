//! Tests of the reports of first tokens, which pools that choose by work need.

use evenkeel_proto::v1::FirstToken;

use super::*;
use crate::host::Host as _;

fn by_work(endpoint: &str, unread_tokens: u64) -> Answer {
    Answer::Admitted(Admitted { endpoint: endpoint.into(), unread_tokens, ..Admitted::default() })
}

/// Starts a response from upstream and passes the first chunk of its body.
fn begin(rig: &mut Rig, context: u32) {
    rig.respond(context, "a:1", 200);
    pass(rig, context, false);
}

fn pass(rig: &mut Rig, context: u32, end: bool) {
    rig.host.call(context);
    rig.worker.on_response_body(&rig.host, context, 10, end);
}

fn first_token(rig: &Rig, context: u32, after_ms: u64) -> FirstToken {
    FirstToken { lease: rig.lease(context).unwrap(), after_ms, pool: rig.last_admit().pool }
}

#[test]
fn the_first_chunk_is_reported_once_and_in_time() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.answer(5, 0, Some(by_work("a:1", 700)));
    rig.host.advance(30);
    begin(&mut rig, 5);
    // Nothing is sent at once; the next tick is at most 10 ms away.
    assert!(rig.host.first_tokens().is_empty());
    assert!(rig.worker.next_tick_ms <= rig.host.now_ms() + 10);
    pass(&mut rig, 5, false);
    rig.tick();
    assert_eq!(rig.host.first_tokens(), [first_token(&rig, 5, 30)]);
    pass(&mut rig, 5, true);
    rig.end(5);
    assert_eq!(rig.last_settlement().first_token_ms, 30);
    assert_eq!(rig.host.first_tokens().len(), 1);
}

#[test]
fn a_report_leaves_with_the_next_admission() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.answer(5, 0, Some(by_work("a:1", 700)));
    begin(&mut rig, 5);
    rig.arrive(6);
    assert_eq!(rig.host.first_tokens().len(), 1);
}

#[test]
fn requests_without_unread_tokens_report_nothing() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.admit(5, "a:1");
    begin(&mut rig, 5);
    // A response that ends with its first chunk is settled instead.
    rig.arrive(6);
    rig.answer(6, 0, Some(by_work("a:1", 700)));
    rig.respond(6, "a:1", 200);
    pass(&mut rig, 6, true);
    rig.end(6);
    rig.tick();
    assert!(rig.host.first_tokens().is_empty());
    assert_eq!(rig.settlements().len(), 1);
}

#[test]
fn lists_have_the_unread_tokens_until_the_first_token() {
    let mut rig = Rig::new("");
    for (context, tokens) in [(5, 0), (6, 700), (7, 800), (8, 0)] {
        rig.arrive(context);
        rig.answer(context, 0, Some(by_work("a:1", tokens)));
    }
    assert_eq!(rig.list().pools[0].unread_tokens, [0, 700, 800, 0]);
    begin(&mut rig, 6);
    assert_eq!(rig.list().pools[0].unread_tokens, [0, 0, 800, 0]);
    begin(&mut rig, 7);
    assert!(rig.list().pools[0].unread_tokens.is_empty());
}

/// A report that a cut stream did not send is not sent again, because the next list replaces it.
#[test]
fn a_cut_drops_reports_and_the_list_replaces_them() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.answer(5, 0, Some(by_work("a:1", 700)));
    begin(&mut rig, 5);
    rig.cut(14);
    rig.resume();
    rig.tick();
    assert!(rig.host.first_tokens().is_empty());
    assert!(rig.host.lists().pop().unwrap().pools[0].unread_tokens.is_empty());
}

/// The sidecar counts the tokens of a request that went on without its answer, too.
#[test]
fn a_late_answer_brings_the_tokens() {
    let mut rig = Rig::new("");
    for context in [5, 6] {
        rig.arrive(context);
        rig.note_lease(context);
    }
    rig.miss_deadlines();
    begin(&mut rig, 5);
    for context in [5, 6] {
        rig.answer(context, 0, Some(by_work("a:1", 700)));
    }
    rig.tick();
    let reported: Vec<u64> = rig.host.first_tokens().iter().map(|first| first.lease).collect();
    assert_eq!(reported, [rig.lease(5).unwrap()]);
    assert_eq!(rig.list().pools[0].unread_tokens, [0, 700]);
}
