//! Tests of the tick: KeepAlive and upstream addresses.

use evenkeel_proto::v1::{KeepAliveResponse, Pool};

use super::{super::keep_alive::WANTED_MAX, *};
use crate::{host::Host as _, lease_table::EMPTY_POOL_KEPT_MS, metrics::Counter};

fn answer_keep_alive(rig: &mut Rig, interval_ms: u32) {
    let token = rig.host.last_call(Method::KeepAlive).token;
    let response =
        KeepAliveResponse { interval_ms, restored: 1, dropped: 2, moved: 3, ..KeepAliveResponse::default() };
    rig.worker.on_answer(&rig.host, token, 0, &response.encode_to_vec());
}

fn sent(rig: &Rig) -> usize {
    rig.host.calls_of(Method::KeepAlive).len()
}

#[test]
fn the_first_keep_alive_is_prompt_and_empty() {
    let mut rig = Rig::new("");
    assert_eq!(rig.host.tick_ms.get(), 20);
    rig.tick();
    let call = rig.host.last_call(Method::KeepAlive);
    assert_eq!((call.context, call.timeout_ms), (ROOT, 500));
    let request = call.keep_alive();
    assert_eq!((request.holder.as_str(), request.issued_through, request.pools.len()), ("holder", 0, 0));
    assert_eq!(rig.host.tick_ms.get(), 1000);
}

#[test]
fn headers_wanted_by_the_sidecar_are_passed_on() {
    let mut rig = Rig::new(r#"{"pass_headers":["x-a"]}"#);
    let mut answer_with = |wanted: &[String]| {
        rig.host.advance(60_000);
        rig.tick();
        let token = rig.host.last_call(Method::KeepAlive).token;
        let response = KeepAliveResponse { wanted_headers: wanted.to_vec(), ..KeepAliveResponse::default() };
        rig.worker.on_answer(&rig.host, token, 0, &response.encode_to_vec());
        let context = rig.host.now_ms() as u32;
        rig.host.open(context);
        rig.host.with_stream(context, |s| {
            let names = (0..99).map(|i| format!("x-{i}")).chain(["x-a", "x-b"].map(str::to_owned));
            s.request_headers.extend(names.map(|name| (name, "v".to_owned())));
        });
        rig.worker.on_request_headers(&rig.host, context, true);
        let headers = rig.host.last_call(Method::Admit).admit().subject.unwrap().headers;
        let mut names: Vec<_> = headers.into_keys().collect();
        names.sort();
        (names, rig.host.count_of(Counter::WantedHeadersRejected))
    };
    let wanted = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(answer_with(&[]).0, ["x-a"]);
    let (names, refused) = answer_with(&wanted(&["X-B", "x-b", "x-a", ":path", "bad name", "x-absent"]));
    assert_eq!((names, refused), (wanted(&["x-a", "x-b"]), 2));
    let many: Vec<String> = (0..99).map(|i| format!("x-{i}")).collect();
    let (names, refused) = answer_with(&many);
    assert_eq!((names.len(), refused), (1 + WANTED_MAX, 2 + 99 - WANTED_MAX as u64));
    assert_eq!(answer_with(&[]).0, ["x-a"], "the last answer applies");
}

#[test]
fn shown_tickets_are_in_every_list() {
    let mut rig = Rig::new("");
    for (context, show_ticket) in [(5, true), (6, false)] {
        rig.arrive(context);
        let ticket = format!("t{context}").into_bytes();
        let admitted = Admitted { endpoint: "a:1".into(), ticket, show_ticket, ..Admitted::default() };
        rig.answer(context, 0, Some(Answer::Admitted(admitted)));
    }
    for _ in 0..2 {
        let list = rig.list();
        assert_eq!(list.pools[0].leases, [1, 2]);
        assert_eq!(list.pools[0].tickets, [&b"t5"[..], b""]);
    }
    rig.end(5);
    assert_eq!(rig.host.last_call(Method::Settle).settle().ticket, b"t5");
    assert!(rig.list().pools[0].tickets.is_empty());
}

#[test]
fn the_sidecar_sets_the_interval() {
    let mut rig = Rig::new("");
    rig.tick();
    answer_keep_alive(&mut rig, 3000);
    assert_eq!(rig.host.tick_ms.get(), 3000);
    rig.host.advance(1000);
    rig.tick();
    assert_eq!(sent(&rig), 1);
    rig.host.advance(1999); // slightly early
    rig.tick();
    assert_eq!((sent(&rig), rig.host.last_call(Method::KeepAlive).timeout_ms), (2, 1500));
    answer_keep_alive(&mut rig, 0);
    assert_eq!(rig.host.tick_ms.get(), 3000, "0 is not an interval");
    assert_eq!(rig.host.count_of(Counter::KeepAlivesOk), 2);
    assert_eq!(rig.host.count_of(Counter::LeasesMoved), 6);
}

/// Guards against ticks that do not divide the interval. With a tick of 1600 ms and an interval of 2000 ms, only every
/// second tick sent a KeepAlive. The holder was then silent for 3200 ms, but the sidecar considers it dead after 3000
/// ms.
#[test]
fn buffering_bodies_does_not_stretch_the_interval() {
    let pairs = [
        (2000, 1600),
        (2000, 1999),
        (2000, 1001),
        (2000, 2000),
        (2000, 60_000),
        (1000, 100),
        (1000, 700),
        (3000, 1000),
        (60_000, 100),
        (60_000, 59_999),
        (100, 100),
        (333, 110),
    ];
    for (interval_ms, body_wait_ms) in pairs {
        let mut rig = Rig::new(&format!(
            r#"{{"read_body":true,"body_wait_ms":{body_wait_ms},"keep_alive_ms":{interval_ms}}}"#
        ));
        rig.tick();
        answer_keep_alive(&mut rig, interval_ms as u32);
        let (mut last_ms, mut gaps) = (rig.host.now_ms(), 0);
        while gaps < 20 {
            rig.host.advance(rig.host.tick_ms.get());
            let before = sent(&rig);
            rig.tick();
            if sent(&rig) > before {
                answer_keep_alive(&mut rig, interval_ms as u32);
                let gap_ms = rig.host.now_ms() - last_ms;
                // A KeepAlive is due up to an eighth of the interval early.
                let expected = interval_ms - interval_ms / 8..=interval_ms;
                assert!(expected.contains(&gap_ms), "{interval_ms}, {body_wait_ms}: after {gap_ms} ms");
                (last_ms, gaps) = (rig.host.now_ms(), gaps + 1);
            }
        }
        assert!(rig.host.tick_ms.get() <= body_wait_ms.min(interval_ms));
    }
}

#[test]
fn the_interval_is_clamped() {
    for (interval_ms, tick_ms) in [(1, 100), (u32::MAX, 60_000)] {
        let mut rig = Rig::new("");
        rig.tick();
        answer_keep_alive(&mut rig, interval_ms);
        assert_eq!(rig.host.tick_ms.get(), tick_ms);
    }
}

#[test]
fn at_most_one_keep_alive_is_pending() {
    let mut rig = Rig::new("");
    rig.tick();
    rig.host.advance(1000);
    rig.tick();
    assert_eq!(sent(&rig), 1);
    answer_keep_alive(&mut rig, 1000);
    rig.tick();
    assert_eq!(sent(&rig), 2);
}

#[test]
fn a_keep_alive_without_answer_does_not_block_the_next() {
    let mut rig = Rig::new("");
    rig.tick();
    rig.host.advance(1001);
    rig.tick();
    assert_eq!(sent(&rig), 2);
}

#[test]
fn a_failed_keep_alive_is_counted_and_repeated_early() {
    let mut rig = Rig::new("");
    rig.tick();
    assert_eq!(rig.host.tick_ms.get(), 1000);
    rig.host.advance(500);
    let token = rig.host.last_call(Method::KeepAlive).token;
    rig.worker.on_answer(&rig.host, token, 14, &[]);
    assert_eq!(rig.host.tick_ms.get(), 250);
    rig.host.refuse_calls.set(true);
    rig.host.advance(250);
    rig.tick();
    assert_eq!(
        (sent(&rig), rig.host.count_of(Counter::KeepAlivesFailed), rig.host.tick_ms.get()),
        (1, 2, 250)
    );
    rig.host.refuse_calls.set(false);
    rig.host.advance(250);
    rig.tick();
    assert_eq!((sent(&rig), rig.host.tick_ms.get()), (2, 1000));
    assert_eq!(rig.host.logs.borrow().len(), 1);
}

#[test]
fn pending_leases_are_listed_without_endpoint() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.arrive(6);
    rig.admit(6, "a:1");
    let list = rig.list();
    assert_eq!(list.issued_through, 2);
    assert_eq!(list.pools[0].endpoints, ["a:1"]);
    assert_eq!(list.pools[0].leases, [1, 2]);
    assert_eq!(list.pools[0].endpoint_of, [0, 1]);
}

#[test]
fn the_tick_finds_an_unknown_endpoint() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.answer(5, 14, None);
    rig.host.set_property(5, "upstream.address", b"b:1");
    assert_eq!(rig.list().pools[0].endpoints, ["b:1"]);
    assert_eq!(rig.host.effective.get(), ROOT);
    assert_eq!(rig.host.count_of(Counter::EndpointMismatches), 0);
}

#[test]
fn a_request_that_went_elsewhere_is_listed_at_its_endpoint() {
    for at_response in [true, false] {
        let mut rig = Rig::new("");
        rig.arrive(5);
        rig.admit(5, "a:1");
        if at_response {
            rig.respond(5, "b:1", 200);
        } else {
            rig.host.set_property(5, "upstream.address", b"b:1");
        }
        let list = rig.list();
        assert_eq!(
            (&list.pools[0].endpoints[..], &list.pools[0].endpoint_of[..]),
            (&["b:1".to_owned()][..], &[1][..])
        );
        rig.list();
        assert_eq!(rig.host.count_of(Counter::EndpointMismatches), 1);
    }
}

#[test]
fn a_lease_moves_with_each_retry_to_the_next_host() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.admit(5, "a:1");
    for host in ["a:1", "b:1", "c:1"] {
        rig.host.set_property(5, "upstream.address", host.as_bytes());
        assert_eq!(rig.list().pools[0].endpoints, [host]);
    }
    assert_eq!(rig.host.count_of(Counter::EndpointMismatches), 1, "once per request");
}

#[test]
fn a_name_is_not_compared_with_an_address() {
    let mut rig = Rig::new(r#"{"apply":{"mode":"name","header":"x-p"},"pool":{"cluster":"c"}}"#);
    rig.arrive(5);
    rig.admit(5, "openai");
    rig.respond(5, "203.0.113.9:443", 200);
    assert_eq!(rig.list().pools[0].endpoints, ["openai"]);
    assert_eq!(rig.host.count_of(Counter::EndpointMismatches), 0);
}

#[test]
fn a_stream_that_vanished_does_not_stop_the_tick() {
    let mut rig = Rig::new("");
    for context in [5, 6] {
        rig.arrive(context);
        rig.answer(context, 14, None);
        rig.host.set_property(context, "upstream.address", b"b:1");
    }
    rig.host.gone.borrow_mut().insert(5);
    assert_eq!(rig.list().pools[0].endpoint_of, [0, 1]);
}

#[test]
fn several_ticks_locate_all_streams() {
    let mut rig = Rig::new("");
    rig.host.refuse_calls.set(true);
    let count = super::super::LOCATED_PER_TICK_MAX as u32 + 10;
    for context in 2..count + 2 {
        rig.arrive(context);
        rig.host.set_property(context, "upstream.address", b"b:1");
    }
    rig.host.refuse_calls.set(false);
    let unknown = |rig: &mut Rig| rig.list().pools[0].endpoint_of.iter().filter(|i| **i == 0).count();
    assert_eq!(unknown(&mut rig), 10);
    assert_eq!(unknown(&mut rig), 0);
}

#[test]
fn an_empty_pool_is_listed_for_a_while() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.admit(5, "a:1");
    rig.end(5);
    assert_eq!(rig.list().pools.len(), 1);
    rig.host.advance(EMPTY_POOL_KEPT_MS);
    assert_eq!(rig.list().pools.len(), 0);
}

#[test]
fn a_refused_pool_is_forgotten_and_its_requests_go_on() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.answer(5, 5, None);
    rig.arrive(6);
    rig.tick();
    let refused_pools = vec![Pool { route: "chat".into(), cluster: "llm".into() }];
    let response = KeepAliveResponse { refused_pools, ..KeepAliveResponse::default() };
    let token = rig.host.last_call(Method::KeepAlive).token;
    rig.worker.on_answer(&rig.host, token, 0, &response.encode_to_vec());
    let list = rig.list();
    assert_eq!((list.pools.len(), list.issued_through), (0, 2));
    rig.answer(6, 5, None);
    assert_eq!((rig.resumed(5), rig.resumed(6)), (1, 1));
    rig.end(5);
    rig.end(6);
    assert_eq!(rig.host.calls_of(Method::Settle).len(), 2);
    assert_eq!(rig.worker.lease_table().pools(), 0);
    assert_eq!(rig.arrive(7), Flow::Pause, "Admit is sent as before");
    rig.answer(7, 5, None);
    assert_eq!(rig.resumed(7), 1);
    assert_eq!(rig.list().pools.len(), 1);
}

#[test]
fn instances_in_one_vm_list_only_their_own_leases() {
    let mut rig = Rig::new("");
    let mut other = Worker::new(2, "other".into());
    assert!(other.configure(&rig.host, b""));
    rig.arrive(5);
    other.on_tick(&rig.host);
    let request = rig.host.last_call(Method::KeepAlive).keep_alive();
    assert_eq!((request.holder.as_str(), request.issued_through), ("other", 0));
    assert_eq!(rig.list().pools[0].leases, [1]);
}
