//! Tests of the stream to the sidecar: opening, resuming, and everything that a gateway does not report.

use super::*;
use crate::metrics::Counter;

fn clusters(rig: &Rig) -> Vec<String> {
    rig.host.opened.borrow().values().cloned().collect()
}

fn opened(rig: &Rig) -> usize {
    rig.host.opened.borrow().len()
}

/// Lets time pass tick by tick, without a word from the sidecar.
fn run(rig: &mut Rig, ms: u64) {
    let until_ms = rig.host.now_ms.get() + ms;
    while rig.host.now_ms.get() < until_ms {
        let step_ms = rig.host.tick_ms.get().min(until_ms - rig.host.now_ms.get());
        rig.host.advance(step_ms);
        rig.tick();
    }
}

/// The gateway's main thread runs an instance too, which must not connect.
#[test]
fn the_first_request_opens_the_stream_from_the_root_context() {
    let mut rig = Rig::unconnected(r#"{"sidecar":{"cluster":"side"}}"#);
    run(&mut rig, 5000);
    assert_eq!(opened(&rig), 0);
    assert_eq!(rig.arrive(5), Flow::Pause);
    assert_eq!((opened(&rig), rig.host.tick_ms.get()), (0, 1), "only root callbacks may open a stream");
    rig.tick();
    assert_eq!(clusters(&rig), ["side"]);
    let hello = rig.host.messages()[0].clone();
    assert_eq!(hello.hello.as_ref().unwrap().holder, "holder");
    assert_eq!(hello.hello.as_ref().unwrap().secret.len(), 16);
    assert!(hello.leases.is_none(), "nobody reads it if the stream is not connected");
    rig.welcome();
    assert_eq!(rig.host.lists()[0].pools[0].leases, [1]);
}

/// A gateway accepts what is sent on a stream that is not connected, and loses it.
#[test]
fn nothing_but_hello_is_sent_before_welcome() {
    let mut rig = Rig::unconnected("");
    rig.arrive(5);
    rig.tick();
    rig.arrive(6);
    rig.tick();
    assert_eq!(rig.host.messages().len(), 1);
    rig.welcome();
    assert_eq!(rig.host.admits().iter().map(|admit| admit.lease).collect::<Vec<_>>(), [1, 2]);
    rig.admit(5, "a:1");
    rig.admit(6, "a:1");
    assert_eq!((rig.resumed(5), rig.resumed(6)), (1, 1));
    assert_eq!(rig.host.count_of(Counter::AdmitsResent), 0);
}

#[test]
fn without_welcome_requests_go_on_at_their_deadline_and_the_plugin_connects_again() {
    let mut rig = Rig::unconnected("");
    rig.arrive(5);
    run(&mut rig, 49);
    assert_eq!(rig.resumed(5), 0);
    run(&mut rig, 11);
    assert_eq!(rig.resumed(5), 1);
    assert!(rig.host.cancelled().is_empty(), "the sidecar was not asked");
    run(&mut rig, 1000);
    assert_eq!((opened(&rig), rig.host.tokens.borrow().len()), (2, 1));
}

#[test]
fn what_a_closed_stream_had_not_answered_is_asked_again_with_the_same_lease() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.arrive(6);
    rig.admit(6, "a:1");
    rig.cut(14);
    rig.arrive(7);
    assert_eq!((rig.host.lost.get(), rig.host.tokens.borrow().len()), (0, 0), "closed means closed");
    rig.host.sent.borrow_mut().clear();
    run(&mut rig, 1);
    rig.welcome();
    let hello = rig.host.messages()[0].clone();
    assert_eq!(hello.hello.unwrap().secret, b"the sidecar's");
    assert_eq!(rig.host.lists()[0].pools[0].endpoint_of, [0, 1, 0]);
    assert_eq!(rig.host.admits().iter().map(|admit| admit.lease).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(rig.host.count_of(Counter::AdmitsResent), 1);
    rig.admit(5, "a:1");
    assert_eq!((rig.resumed(5), rig.resumed(6)), (1, 1));
}

#[test]
fn attempts_are_prompt_first_and_then_back_off() {
    let mut rig = Rig::new(r#"{"sidecar":{"cluster":["a","b"]}}"#);
    rig.pass(1000);
    let mut delays = Vec::new();
    for _ in 0..9 {
        let (before, started_ms) = (opened(&rig), rig.host.now_ms.get());
        rig.cut(14);
        while opened(&rig) == before {
            run(&mut rig, 1);
        }
        delays.push(rig.host.now_ms.get() - started_ms);
    }
    assert_eq!(delays[0], 1);
    let bounds = [50, 100, 200, 400, 800, 1000, 1000, 1000];
    for (delay_ms, bound_ms) in delays[1..].iter().zip(bounds) {
        assert!((bound_ms / 2..=bound_ms).contains(delay_ms), "{delays:?}");
    }
    assert_eq!(clusters(&rig)[..4], ["a", "b", "a", "b"]);
    // A stream that is ready for a while counts as good.
    rig.welcome();
    rig.pass(1000);
    let before = opened(&rig);
    rig.cut(14);
    run(&mut rig, 1);
    assert_eq!(opened(&rig), before + 1);
}

#[test]
fn a_gateway_that_opens_no_stream_is_asked_again_later() {
    let mut rig = Rig::unconnected("");
    rig.host.refuse_open.set(true);
    rig.arrive(5);
    run(&mut rig, 60);
    assert_eq!(rig.resumed(5), 1);
    rig.host.refuse_open.set(false);
    run(&mut rig, 1000);
    assert_eq!(opened(&rig), 1);
}

/// While no attempt is due before its deadline, a request would wait for nothing.
#[test]
fn a_request_does_not_wait_for_a_stream_that_cannot_come_in_time() {
    let mut rig = Rig::new("");
    for _ in 0..8 {
        rig.cut(14);
        while rig.host.token().is_none() {
            run(&mut rig, 1);
        }
    }
    rig.cut(14);
    assert_eq!(rig.arrive(5), Flow::Continue);
}

#[test]
fn one_callback_resumes_at_most_32_requests() {
    for how in ["answers", "deadlines", "the close"] {
        let mut rig = Rig::new("");
        for context in 5..405 {
            rig.arrive(context);
        }
        match how {
            "answers" => {
                let answers = (1..=400).map(|lease| AdmitAnswer { lease, answer: None }).collect();
                rig.say(&ToWorker { answers, ..ToWorker::default() });
                assert_eq!(rig.host.resumed_in_call.get(), 32);
            }
            "deadlines" => rig.host.advance(50),
            _ => {
                rig.cut(14);
                assert_eq!(rig.host.resumed_in_call.get(), 0);
                rig.host.advance(50);
            }
        }
        for _ in 0..14 {
            rig.tick();
            rig.host.advance(1);
        }
        assert!((5..405).all(|context| rig.resumed(context) == 1), "{how}");
    }
}

#[test]
fn bodies_that_time_out_together_are_admitted_in_batches() {
    let mut rig = Rig::new(r#"{"read_body":true,"on_unread_body":"refuse"}"#);
    for context in 5..105 {
        rig.host.open(context);
        rig.worker.on_request_headers(&rig.host, context, false);
    }
    rig.pass(2000);
    for _ in 0..4 {
        rig.tick();
        rig.host.advance(1);
    }
    assert!((5..105).all(|context| rig.host.with_stream(context, |s| s.response.is_some())));
}

/// There is no sign of backpressure: every send to a frozen peer succeeds.
#[test]
fn what_waits_for_a_frozen_sidecar_is_bounded() {
    let mut rig = Rig::new(r#"{"deadline_ms":10000}"#);
    let welcome = Welcome { pending_admits_max: 10, ..Welcome::default() };
    rig.cut(14);
    run(&mut rig, 1);
    rig.say(&ToWorker { welcome: Some(welcome), ..ToWorker::default() });
    let flows: Vec<_> = (5..25).map(|context| rig.arrive(context)).collect();
    assert_eq!(flows.iter().filter(|flow| **flow == Flow::Pause).count(), 10);
    assert_eq!((rig.host.admits().len(), rig.host.count_of(Counter::AdmitsFailed)), (10, 10));
    rig.admit(5, "a:1");
    assert_eq!(rig.arrive(25), Flow::Pause);
}

/// The sidecar counts an admission until it has answered.
#[test]
fn admissions_of_requests_that_went_on_count_until_their_answer() {
    let mut rig = Rig::new("");
    let welcome = Welcome { pending_admits_max: 1, ..Welcome::default() };
    rig.cut(14);
    run(&mut rig, 1);
    rig.say(&ToWorker { welcome: Some(welcome), ..ToWorker::default() });
    rig.arrive(5);
    rig.miss_deadlines();
    assert_eq!((rig.resumed(5), rig.arrive(6)), (1, Flow::Continue));
    assert_eq!(rig.host.count_of(Counter::AdmitsFailed), 1);
    rig.admit(5, "a:1");
    assert_eq!(rig.arrive(7), Flow::Pause);
}

#[test]
fn a_silent_sidecar_is_left_after_two_intervals_of_pings() {
    let mut rig = Rig::new(r#"{"sidecar":{"cluster":["a","b"]}}"#);
    run(&mut rig, 3990);
    assert_eq!(opened(&rig), 1);
    run(&mut rig, 30);
    assert_eq!(clusters(&rig), ["a", "b"]);
    assert_eq!((rig.host.count_of(Counter::StreamsSilent), rig.host.tokens.borrow().len()), (1, 1));
    // Pings are heard, and answered.
    rig.welcome();
    for ping in 1..=10 {
        rig.host.advance(2000);
        rig.say(&ToWorker { ping, ..ToWorker::default() });
        assert_eq!(rig.host.messages().pop().unwrap().pong, ping);
        rig.tick();
    }
    assert_eq!(opened(&rig), 2);
}

/// Without keep-alive in the gateway's cluster, missed deadlines are the first sign of a dead sidecar.
#[test]
fn missed_deadlines_end_a_silent_stream_early() {
    let mut rig = Rig::new("");
    for context in 5..15 {
        rig.arrive(context);
    }
    run(&mut rig, 990);
    assert_eq!(opened(&rig), 1);
    run(&mut rig, 20);
    assert_eq!((opened(&rig), rig.host.count_of(Counter::StreamsSilent)), (2, 1));
}

#[test]
fn a_sidecar_that_was_frozen_for_a_second_finds_every_request_decided_once() {
    let mut rig = Rig::new("");
    for context in 5..45 {
        rig.arrive(context);
    }
    run(&mut rig, 70);
    assert!((5..45).all(|context| rig.resumed(context) == 1));
    run(&mut rig, 900);
    for context in 5..45 {
        rig.admit(context, "a:1");
    }
    assert!((5..45).all(|context| rig.resumed(context) == 1));
    assert_eq!((rig.cancelled(), rig.host.count_of(Counter::AdmitsLate)), (vec![], 40));
    for context in 5..45 {
        rig.respond(context, "b:1", 200);
        rig.end(context);
    }
    assert_eq!(rig.settlements().len(), 40);
}

#[test]
fn a_context_that_is_gone_is_skipped() {
    let mut rig = Rig::new("");
    for context in 5..8 {
        rig.arrive(context);
    }
    rig.host.gone.borrow_mut().insert(5);
    rig.admit(5, "a:1");
    rig.host.gone.borrow_mut().insert(6);
    rig.miss_deadlines();
    assert_eq!(rig.resumed(7), 1);
}

fn leave(rig: &mut Rig) -> u32 {
    let token = rig.host.token().unwrap();
    rig.say(&ToWorker { leave: true, ..ToWorker::default() });
    token
}

#[test]
fn a_worker_leaves_for_the_next_cluster_when_its_new_stream_is_ready() {
    let mut rig = Rig::new(r#"{"sidecar":{"cluster":["a","b"]}}"#);
    rig.arrive(4);
    rig.admit(4, "a:1");
    rig.end(4);
    rig.arrive(5);
    rig.arrive(6);
    let old = leave(&mut rig);
    run(&mut rig, 1);
    assert_eq!(clusters(&rig), ["a", "b"]);
    rig.arrive(7);
    rig.say_on(old, &answer(2));
    assert_eq!((rig.host.admits().len(), rig.resumed(5)), (4, 1), "the old sidecar still answers");
    rig.host.sent.borrow_mut().clear();
    rig.welcome();
    assert_eq!(*rig.host.tokens.borrow(), rig.host.open.borrow().clone());
    assert!(!rig.host.tokens.borrow().contains(&old));
    assert_eq!(rig.host.settlements()[0].lease, 1);
    assert_eq!(rig.host.lists()[0].pools[0].leases, [2, 3, 4]);
    assert_eq!(rig.host.admits().iter().map(|admit| admit.lease).collect::<Vec<_>>(), [3, 4]);
    assert_eq!((rig.host.count_of(Counter::StreamsLeft), rig.host.logs.borrow().len()), (1, 0));
}

fn answer(lease: u64) -> ToWorker {
    let response = AdmitResponse { answer: Some(admitted("a:1", Basis::Shared)) };
    let answer = Some(admit_answer::Answer::Response(response));
    ToWorker { answers: vec![AdmitAnswer { lease, answer }], ..ToWorker::default() }
}

/// The only sidecar serves its streams until it ends them, and accepts no others.
#[test]
fn a_worker_without_another_sidecar_stays_until_the_stream_ends() {
    for status in [0, 14] {
        let mut rig = Rig::new("");
        let old = leave(&mut rig);
        let mut attempts = 0;
        for context in 5..25 {
            run(&mut rig, 50);
            if let Some(token) = rig.host.token().filter(|token| *token != old) {
                rig.cut_stream(token, 14);
                attempts += 1;
            }
            rig.arrive(context);
            let lease = rig.lease(context).unwrap();
            rig.say_on(old, &answer(lease));
            assert_eq!(rig.resumed(context), 1);
        }
        assert!((3..10).contains(&attempts), "{attempts}");
        assert_eq!(rig.host.count_of(Counter::AdmitsShared), 20);
        rig.host.refuse_open.set(true);
        run(&mut rig, 1);
        rig.cut_stream(old, status);
        rig.host.refuse_open.set(false);
        run(&mut rig, 1010);
        rig.welcome();
        rig.arrive(99);
        rig.admit(99, "a:1");
        assert_eq!((rig.resumed(99), rig.host.tokens.borrow().len()), (1, 1));
    }
}

/// The new stream ends the old one, perhaps before Welcome.
#[test]
fn the_end_of_the_old_stream_does_not_disturb_its_successor() {
    for silent in [true, false] {
        let mut rig = Rig::new("");
        let old = leave(&mut rig);
        run(&mut rig, 1);
        rig.arrive(5);
        if silent {
            rig.cut_stream(old, 10);
        }
        rig.welcome();
        rig.admit(5, "a:1");
        assert_eq!((rig.resumed(5), opened(&rig), rig.host.logs.borrow().len()), (1, 2, 0));
    }
    // A successor without Welcome is given up.
    let mut rig = Rig::new("");
    let old = leave(&mut rig);
    for _ in 0..3 {
        run(&mut rig, 1000);
        rig.say_on(old, &ToWorker { ping: 1, ..ToWorker::default() });
    }
    assert!(opened(&rig) >= 3 && rig.host.tokens.borrow().contains(&old));
}

#[test]
fn a_refused_holder_becomes_a_new_one() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.admit(5, "a:1");
    rig.cut(7);
    rig.resume();
    let hello = rig.host.messages().into_iter().rfind(|message| message.hello.is_some()).unwrap();
    let hello = hello.hello.unwrap();
    assert!(hello.holder.len() == 22 && hello.secret.len() == 16 && hello.holder == rig.worker.holder());
    let list = rig.host.lists().pop().unwrap();
    assert_eq!(list.pools[0].endpoints, ["a:1"], "with the same requests");
    assert_eq!(rig.host.count_of(Counter::StreamsRefused), 1);
}

#[test]
fn an_instance_without_requests_says_goodbye() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.admit(5, "a:1");
    rig.end(5);
    rig.host.call(ROOT);
    assert!(!rig.worker.on_done(&rig.host));
    let messages = rig.host.messages();
    assert_eq!((rig.host.settlements().len(), messages.last().unwrap().goodbye), (1, true));
    rig.cut(0);
    assert_eq!((rig.host.done.get(), rig.host.tokens.borrow().len()), (1, 0));
    run(&mut rig, 5000);
    assert_eq!((opened(&rig), rig.host.done.get()), (1, 1));
}

#[test]
fn an_instance_does_not_wait_long_for_the_answer_to_goodbye() {
    let mut rig = Rig::new("");
    rig.host.call(ROOT);
    assert!(!rig.worker.on_done(&rig.host));
    run(&mut rig, 200);
    assert_eq!((rig.host.done.get(), rig.host.open.borrow().len()), (1, 0));
}

#[test]
fn an_instance_with_requests_or_without_a_stream_ends_at_once() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.host.call(ROOT);
    assert!(rig.worker.on_done(&rig.host));
    assert!(Rig::unconnected("").worker.on_done(&rig.host));
}

#[test]
fn a_new_configuration_connects_to_its_cluster() {
    let mut rig = Rig::new("");
    rig.host.call(ROOT);
    assert!(rig.worker.configure(&rig.host, br#"{"deadline_ms":30}"#));
    rig.tick();
    assert_eq!(opened(&rig), 1, "the cluster is the same");
    assert!(rig.worker.configure(&rig.host, br#"{"sidecar":{"cluster":"b"}}"#));
    run(&mut rig, 2);
    assert_eq!(clusters(&rig), ["evenkeel", "b"]);
    assert_eq!(rig.host.tokens.borrow().len(), 1);
}

#[test]
fn an_unreadable_message_ends_the_stream() {
    let mut rig = Rig::new("");
    let token = rig.host.token().unwrap();
    rig.host.call(ROOT);
    rig.worker.on_stream_message(&rig.host, token, b"\xff");
    assert_eq!(rig.host.token(), None);
    run(&mut rig, 1);
    assert_eq!(opened(&rig), 2);
    // Messages and ends of earlier streams change nothing.
    rig.worker.on_stream_message(&rig.host, token, b"\xff");
    rig.worker.on_stream_close(&rig.host, token, 14);
    assert!(rig.host.token().is_some());
}
