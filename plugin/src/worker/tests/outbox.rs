//! Tests of settlements and cancellations on their way to the sidecar.

use super::*;
use crate::metrics::Counter;

/// Admits a request and ends it.
fn complete(rig: &mut Rig, context: u32) {
    rig.arrive(context);
    rig.admit(context, "a:1");
    rig.end(context);
}

fn leases(settlements: &[SettleRequest]) -> Vec<u64> {
    settlements.iter().map(|settlement| settlement.lease).collect()
}

fn count(rig: &Rig, counters: [Counter; 4]) -> [u64; 4] {
    counters.map(|counter| rig.host.count_of(counter))
}

const COUNTERS: [Counter; 4] =
    [Counter::SettlesSent, Counter::SettlesResent, Counter::SettlesAcknowledged, Counter::SettlesDropped];

#[test]
fn a_settlement_rides_with_the_next_admit_or_leaves_with_the_tick() {
    let mut rig = Rig::new("");
    complete(&mut rig, 5);
    assert!(rig.host.settlements().is_empty());
    rig.arrive(6);
    let message = rig.host.messages().pop().unwrap();
    assert_eq!((message.first_settlement, leases(&message.settlements)), (1, vec![1]));
    assert_eq!(message.admit.unwrap().lease, 2);
    rig.admit(6, "a:1");
    rig.end(6);
    assert_eq!(rig.host.tick_ms.get(), 10);
    rig.tick();
    let message = rig.host.messages().pop().unwrap();
    assert_eq!((message.first_settlement, leases(&message.settlements)), (2, vec![2]));
}

#[test]
fn settlements_precede_the_list_that_no_longer_contains_their_leases() {
    let mut rig = Rig::new("");
    for context in 5..605 {
        rig.arrive(context);
        rig.admit(context, "a:1");
    }
    for context in 5..605 {
        rig.end(context);
    }
    rig.worker.list.due_now();
    rig.tick();
    let messages = rig.host.messages();
    let list = messages.iter().position(|message| message.leases.is_some()).unwrap();
    let before: usize = messages[..=list].iter().map(|message| message.settlements.len()).sum();
    assert_eq!((before, messages.len() - 1), (600, list), "nothing follows the list");
}

#[test]
fn settlements_without_acknowledgement_are_sent_again_on_the_next_stream() {
    let mut rig = Rig::new("");
    for context in 5..9 {
        complete(&mut rig, context);
    }
    rig.tick();
    rig.acknowledge(2);
    rig.cut(14);
    complete_offline(&mut rig);
    rig.host.sent.borrow_mut().clear();
    rig.resume();
    let first = &rig.host.messages()[1];
    assert_eq!((first.first_settlement, leases(&first.settlements)), (3, vec![3, 4, 5]));
    assert!(first.leases.is_some(), "a list follows at once");
    assert_eq!(count(&rig, COUNTERS), [5, 2, 2, 0]);
    rig.acknowledge(5);
    assert_eq!((rig.worker.outbox.unacknowledged(), count(&rig, COUNTERS)), (0, [5, 2, 5, 0]));
    rig.acknowledge(u64::MAX);
    rig.acknowledge(1);
    assert_eq!(count(&rig, COUNTERS), [5, 2, 5, 0]);
}

/// Completes a request while there is no stream.
fn complete_offline(rig: &mut Rig) {
    rig.worker.connection.state = State::Closed { retry_at_ms: u64::MAX };
    rig.arrive(99);
    rig.end(99);
}

#[test]
fn an_acknowledgement_covers_only_what_was_sent() {
    let mut rig = Rig::new("");
    complete(&mut rig, 5);
    rig.acknowledge(7);
    assert_eq!(rig.worker.outbox.unacknowledged(), 1);
    assert_eq!(leases(&rig.settlements()), [1]);
}

/// The sidecar ends the stream of a worker that exceeds its bound.
#[test]
fn at_most_the_sidecars_maximum_is_on_its_way() {
    let mut rig = Rig::new("");
    rig.cut(14);
    rig.worker.connection.state = State::Closed { retry_at_ms: 0 };
    rig.tick();
    let welcome = Welcome { pending_settlements_max: 3, ..Welcome::default() };
    rig.say(&ToWorker { welcome: Some(welcome), ..ToWorker::default() });
    for context in 5..10 {
        complete(&mut rig, context);
        rig.tick();
    }
    assert_eq!(leases(&rig.settlements()), [1, 2, 3]);
    assert_eq!(count(&rig, COUNTERS), [3, 0, 0, 2], "the oldest that are not on their way");
    rig.acknowledge(2);
    for context in 10..12 {
        complete(&mut rig, context);
    }
    assert_eq!(leases(&rig.settlements()), [1, 2, 3, 6, 7]);
    let message = rig.host.messages().pop().unwrap();
    assert!(message.first_settlement == 4 || message.first_settlement == 5);
    // Without a stream, the oldest are dropped, and no other settlement gets their numbers.
    rig.cut(14);
    for _ in 0..2 {
        complete_offline(&mut rig);
        rig.host.gone.borrow_mut().clear();
    }
    rig.host.sent.borrow_mut().clear();
    rig.resume();
    let first = &rig.host.messages()[1];
    assert_eq!((first.first_settlement, leases(&first.settlements)), (5, vec![7, 8, 9]));
}

#[test]
fn a_settlement_takes_the_place_of_a_cancellation_that_a_cut_may_have_lost() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.end(5);
    assert_eq!(rig.cancelled(), [1]);
    rig.list();
    rig.arrive(6);
    rig.end(6);
    rig.apply_list(KeepAliveResponse::default());
    assert_eq!(rig.cancelled(), [1, 2]);
    rig.arrive(7);
    rig.cut(14);
    rig.end(7);
    rig.resume();
    assert_eq!(rig.cancelled(), [1, 2], "a list has covered the first one");
    let settlements = rig.settlements();
    assert_eq!(leases(&settlements), [2, 3]);
    assert!(settlements.iter().all(|settlement| settlement.outcome() == Outcome::NotSent));
}

/// A request that went on has its own settlement.
#[test]
fn only_the_admission_of_a_request_that_did_not_go_on_is_cancelled() {
    for (on_error, cancelled) in [("open", &[][..]), ("closed", &[1])] {
        let mut rig = Rig::new(&format!(r#"{{"on_error":"{on_error}"}}"#));
        rig.arrive(5);
        rig.miss_deadlines();
        assert_eq!(rig.cancelled(), cancelled);
        rig.cut(14);
        rig.resume();
        assert_eq!(rig.cancelled(), cancelled, "a settlement takes its place");
        assert_eq!(leases(&rig.settlements()), cancelled, "{on_error}");
        assert_eq!(rig.host.admits().len(), 1, "nobody waits for the admission");
    }
}

#[test]
fn an_answer_that_waits_is_cancelled_with_its_request() {
    let mut rig = Rig::new("");
    for context in 5..55 {
        rig.arrive(context);
    }
    let answer = |lease| AdmitAnswer {
        lease,
        answer: Some(admit_answer::Answer::Response(AdmitResponse {
            answer: Some(admitted("a:1", Basis::Shared)),
        })),
    };
    rig.say(&ToWorker { answers: (1..=50).map(answer).collect(), ..ToWorker::default() });
    assert_eq!((rig.resumed(36), rig.resumed(54), rig.host.tick_ms.get()), (1, 0, 1));
    rig.end(54);
    assert_eq!((rig.cancelled(), rig.worker.lease_table().len()), (vec![50], 49));
    assert_eq!((rig.resumed(53), rig.resumed(54)), (1, 0));
}

/// A settlement that the sidecar rejects must not end every later stream too.
#[test]
fn settlements_on_a_stream_that_ended_as_invalid_are_dropped() {
    let mut rig = Rig::new("");
    complete(&mut rig, 5);
    rig.tick();
    complete(&mut rig, 6);
    rig.cut(3);
    rig.host.sent.borrow_mut().clear();
    rig.resume();
    assert_eq!(leases(&rig.settlements()), [2]);
    assert_eq!(count(&rig, COUNTERS), [2, 0, 0, 1]);
}
