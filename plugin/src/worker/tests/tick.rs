//! Tests of the tick: lists, their interval, and upstream addresses.

use evenkeel_proto::v1::Pool;

use super::{
    super::{list::WANTED_MAX, tick::LOCATED_MAX},
    *,
};
use crate::{host::Host as _, lease_table::EMPTY_POOL_KEPT_MS, metrics::Counter};

fn repaired(interval_ms: u32) -> KeepAliveResponse {
    KeepAliveResponse { interval_ms, restored: 1, dropped: 2, moved: 3, ..KeepAliveResponse::default() }
}

/// Lets time pass in steps of the tick until the plugin sends a list. Returns how long that took.
fn until_list(rig: &mut Rig) -> u64 {
    let (started_ms, lists) = (rig.host.now_ms(), rig.host.lists().len());
    while rig.host.lists().len() == lists {
        rig.pass(rig.host.tick_ms.get());
        rig.tick();
    }
    rig.host.now_ms() - started_ms
}

#[test]
fn the_address_is_passed_on_until_the_sidecar_does_not_want_it() {
    let mut rig = Rig::new("");
    for (context, settings, passed) in [(5, None, true), (6, Some(false), false), (7, Some(true), true)] {
        if let Some(wants_source_ip) = settings {
            rig.change_settings(Settings { wants_source_ip, ..Settings::default() });
        }
        rig.arrive(context);
        let source_ip = rig.last_admit().subject.unwrap().source_ip;
        assert_eq!(source_ip, if passed { "192.0.2.7" } else { "" }, "{settings:?}");
    }
}

#[test]
fn headers_wanted_by_the_sidecar_are_passed_on_at_once() {
    let mut rig = Rig::new(r#"{"pass_headers":["x-a"]}"#);
    let mut context = 4;
    let mut answer_with = |wanted: &[String]| {
        rig.change_settings(Settings { wanted_headers: wanted.to_vec(), ..Settings::default() });
        context += 1;
        rig.host.open(context);
        rig.host.with_stream(context, |s| {
            let names = (0..99).map(|i| format!("x-{i}")).chain(["x-a", "x-b"].map(str::to_owned));
            s.request_headers.extend(names.map(|name| (name, "v".to_owned())));
        });
        rig.worker.on_request_headers(&rig.host, context, true);
        let headers = rig.last_admit().subject.unwrap().headers;
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
    assert_eq!(answer_with(&[]).0, ["x-a"], "the last settings apply");
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
    assert_eq!(rig.last_settlement().ticket, b"t5");
    assert!(rig.list().pools[0].tickets.is_empty());
}

#[test]
fn the_sidecar_sets_the_interval() {
    let mut rig = Rig::new("");
    rig.change_settings(Settings { interval_ms: 3000, ..Settings::default() });
    assert_eq!(until_list(&mut rig), 3000);
    rig.apply_list(repaired(750));
    assert_eq!(until_list(&mut rig), 750, "the sidecar could not apply the list");
    rig.apply_list(repaired(0));
    assert_eq!(until_list(&mut rig), 750, "0 is not an interval");
    assert_eq!(rig.host.count_of(Counter::ListsApplied), 2);
    assert_eq!(rig.host.count_of(Counter::LeasesMoved), 6);
}

/// Guards against ticks for bodies that delay the lists: the sidecar considers a worker without lists dead.
#[test]
fn neither_bodies_nor_requests_stretch_the_interval() {
    let pairs =
        [(2000, 1600), (2000, 1999), (2000, 1001), (1000, 100), (1000, 700), (60_000, 59_999), (333, 110)];
    for (interval_ms, body_wait_ms) in pairs {
        let mut rig = Rig::new(&format!(
            r#"{{"read_body":true,"body_wait_ms":{body_wait_ms},"keep_alive_ms":{interval_ms}}}"#
        ));
        until_list(&mut rig);
        for context in 5..15 {
            rig.apply_list(KeepAliveResponse::default());
            rig.arrive(context);
            assert_eq!(until_list(&mut rig), interval_ms, "{body_wait_ms}");
            rig.end(context);
        }
        assert!(rig.host.tick_ms.get() <= body_wait_ms.min(interval_ms));
    }
}

#[test]
fn the_interval_is_clamped() {
    for (interval_ms, expected_ms) in [(1, 100), (u32::MAX, 60_000)] {
        let mut rig = Rig::new("");
        rig.change_settings(Settings { interval_ms, ..Settings::default() });
        assert_eq!(until_list(&mut rig), expected_ms);
    }
}

#[test]
fn at_most_two_lists_wait_for_their_answers_at_a_time() {
    let mut rig = Rig::new("");
    until_list(&mut rig);
    assert_eq!(until_list(&mut rig), 1000);
    assert_eq!(until_list(&mut rig), 2000);
}

#[test]
fn the_tick_is_fast_only_while_something_is_pending() {
    let mut rig = Rig::new("");
    rig.tick();
    let idle_ms = rig.host.tick_ms.get();
    assert!(idle_ms > 900, "{idle_ms}");
    rig.arrive(5);
    assert_eq!(rig.host.tick_ms.get(), 10, "a deadline is pending");
    rig.admit(5, "a:1");
    rig.host.advance(10);
    rig.tick();
    assert!(rig.host.tick_ms.get() > 900);
    rig.end(5);
    assert_eq!(rig.host.tick_ms.get(), 10, "a settlement is pending");
    rig.host.advance(10);
    rig.tick();
    assert!(rig.host.tick_ms.get() > 900);
    assert_eq!(rig.host.settlements().len(), 1);
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
    rig.cut_off();
    let count = LOCATED_MAX as u32 + 10;
    for context in 2..count + 2 {
        rig.arrive(context);
        rig.host.set_property(context, "upstream.address", b"b:1");
    }
    rig.resume();
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
    rig.pass(EMPTY_POOL_KEPT_MS);
    assert_eq!(rig.list().pools.len(), 0);
}

#[test]
fn a_refused_pool_is_forgotten_and_its_requests_go_on() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.answer(5, 5, None);
    rig.arrive(6);
    let refused_pools = vec![Pool { route: "chat".into(), cluster: "llm".into() }];
    rig.apply_list(KeepAliveResponse { refused_pools, ..KeepAliveResponse::default() });
    let list = rig.list();
    assert_eq!((list.pools.len(), list.issued_through), (0, 2));
    rig.answer(6, 5, None);
    assert_eq!((rig.resumed(5), rig.resumed(6)), (1, 1));
    rig.end(5);
    rig.end(6);
    assert_eq!(rig.settlements().len(), 2);
    assert_eq!(rig.worker.lease_table().pools(), 0);
    assert_eq!(rig.arrive(7), Flow::Pause, "Admit is sent as before");
    rig.answer(7, 5, None);
    assert_eq!(rig.resumed(7), 1);
    assert_eq!(rig.list().pools.len(), 1);
}
