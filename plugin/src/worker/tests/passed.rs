//! The lists report the requests that go on without an answer.

use evenkeel_proto::v1::{Unanswered, UnansweredCounts};

use super::*;
use crate::{lease_table::POOLS_MAX, metrics::Counter, mock::MockStream, worker::passed::QUIET_MS};

fn counts(unreachable: u64, late: u64, failed: u64) -> Option<UnansweredCounts> {
    Some(UnansweredCounts { unreachable, late, failed })
}

fn unanswered(rig: &mut Rig) -> Option<Unanswered> {
    rig.list().unanswered
}

#[test]
fn lists_report_each_cause_until_the_period_has_ended() {
    let mut rig = Rig::new("");
    assert_eq!(unanswered(&mut rig), None);
    rig.arrive(5);
    rig.miss_deadlines();
    rig.arrive(6);
    rig.answer(6, 14, None);
    rig.arrive(7);
    rig.answer(7, 4, None);
    rig.host.advance(1000);
    let expected = Unanswered {
        period: 1,
        since_ms: 1000,
        last_ms: 1000,
        requests: counts(0, 2, 1),
        reported: counts(0, 0, 0),
    };
    assert_eq!(unanswered(&mut rig), Some(expected));
    // Only the answer to the last list says that a sidecar has counted them.
    assert_eq!(unanswered(&mut rig), Some(expected));
    rig.apply_list(KeepAliveResponse::default());
    let reported = counts(0, 2, 1);
    assert_eq!(unanswered(&mut rig), Some(Unanswered { reported, ..expected }));
    rig.pass(QUIET_MS);
    assert_eq!(unanswered(&mut rig), None);
    rig.arrive(8);
    rig.miss_deadlines();
    let next = Unanswered {
        period: 2,
        since_ms: 0,
        last_ms: 0,
        requests: counts(0, 1, 0),
        reported: counts(0, 0, 0),
    };
    assert_eq!(unanswered(&mut rig), Some(next));
}

/// A gateway with few requests is not limited for as long as it reaches no sidecar.
#[test]
fn a_period_lasts_as_long_as_no_sidecar_is_reached() {
    let mut rig = Rig::new("");
    rig.cut_off();
    rig.arrive(5);
    rig.host.advance(10 * QUIET_MS);
    rig.arrive(6);
    rig.host.advance(2 * QUIET_MS);
    rig.host.sent.borrow_mut().clear();
    rig.resume();
    let listed = rig.host.lists()[0].unanswered.unwrap();
    assert_eq!((listed.period, listed.since_ms, listed.last_ms), (1, 12 * QUIET_MS, 2 * QUIET_MS));
    assert_eq!((listed.requests, rig.host.count_of(Counter::FailOpen)), (counts(2, 0, 0), 2));
    // A request that waits for a stream that does not come has not reached a sidecar either.
    rig.cut(14);
    rig.worker.connection.state = State::Closed { retry_at_ms: rig.host.now_ms.get() + 40 };
    rig.host.refuse_open.set(true);
    rig.arrive(7);
    rig.miss_deadlines();
    rig.host.refuse_open.set(false);
    rig.host.sent.borrow_mut().clear();
    rig.resume();
    assert_eq!(rig.host.lists()[0].unanswered.unwrap().requests, counts(3, 0, 0));
}

/// The end of a period that no sidecar has counted is still reported.
#[test]
fn what_no_sidecar_has_counted_is_reported_later() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.miss_deadlines();
    rig.pass(2 * QUIET_MS);
    assert_eq!(unanswered(&mut rig).unwrap().requests, counts(0, 1, 0));
    rig.apply_list(KeepAliveResponse::default());
    assert_eq!(unanswered(&mut rig), None);
}

#[test]
fn requests_that_the_plugin_refuses_do_not_count() {
    for config in [r#"{"on_error":"closed"}"#, r#"{"open_per_second":0}"#] {
        let mut rig = Rig::new(config);
        rig.arrive(5);
        rig.miss_deadlines();
        assert_eq!(unanswered(&mut rig), None, "{config}");
    }
}

/// A table that is full must not let requests pass under `closed`.
#[test]
fn a_full_lease_table_follows_on_error() {
    for (config, flow) in [("", Flow::Continue), (r#"{"on_error":"closed"}"#, Flow::Pause)] {
        let mut rig = Rig::new(config);
        let mut arrive = |context: u32, cluster: &str| {
            rig.host.open(context);
            rig.host.set_property(context, "xds.cluster_name", cluster.as_bytes());
            rig.worker.on_request_headers(&rig.host, context, true)
        };
        let full = POOLS_MAX as u32 + 5;
        for context in 5..full {
            assert_eq!(arrive(context, &format!("c{context}")), Flow::Pause);
        }
        assert_eq!(arrive(full, "one more"), flow, "{config}");
        assert_eq!(rig.host.count_of(Counter::FailOpen), u64::from(flow == Flow::Continue));
    }
}

#[test]
fn hello_names_the_gateway() {
    for (property, node) in [("xds.node.id", "gateway-3"), ("node.id", "gateway-3"), ("xds.node.id", "")] {
        let mut rig = Rig::unconnected("");
        let mut root = MockStream::default();
        root.properties.insert(property.into(), node.into());
        rig.host.streams.borrow_mut().insert(ROOT, root);
        rig.worker.connection.wanted = true;
        rig.tick();
        assert_eq!(rig.host.messages()[0].hello.as_ref().unwrap().gateway, node);
    }
}
