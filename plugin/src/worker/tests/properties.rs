//! Properties that hold for any interleaving of events.

use std::collections::{BTreeMap, HashMap, HashSet};

use evenkeel_proto::v1::{KeepAliveRequest, KeepAliveResponse};
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{lease_table::Location, metrics::Counter};

/// An event at the gateway. A `usize` that comes first selects a stream.
#[derive(Clone, Debug)]
enum Event {
    Arrive {
        refused: bool,
    },
    Admit(usize),
    Open(usize),
    Deny(usize),
    Fail(usize, u32),
    Upstream(usize, u8),
    Response(usize),
    /// A chunk of this many bytes of a response passes the plugin.
    Chunk(usize, usize),
    End(usize),
    Tick,
    KeptAlive(u32),
    /// The sidecar does not serve the pool.
    Refused,
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let stream = 0..8_usize;
    prop_oneof![
        4 => any::<bool>().prop_map(|refused| Event::Arrive { refused }),
        4 => stream.clone().prop_map(Event::Admit),
        1 => stream.clone().prop_map(Event::Open),
        2 => stream.clone().prop_map(Event::Deny),
        2 => (stream.clone(), prop_oneof![Just(4_u32), Just(14)]).prop_map(|(s, c)| Event::Fail(s, c)),
        2 => (stream.clone(), 0..3_u8).prop_map(|(s, host)| Event::Upstream(s, host)),
        3 => stream.clone().prop_map(Event::Response),
        2 => (stream.clone(), 0..600_usize).prop_map(|(s, bytes)| Event::Chunk(s, bytes)),
        4 => stream.prop_map(Event::End),
        2 => Just(Event::Tick),
        2 => prop_oneof![2 => Just(0_u32), 1 => Just(14)].prop_map(Event::KeptAlive),
        1 => Just(Event::Refused),
        2 => (1..3000_u64).prop_map(Event::Pass),
    ]
}

/// The streams in the order of arrival, and the sidecar's answers. An answer may arrive after the end of its stream.
#[derive(Default)]
struct Seen {
    live: Vec<u32>,
    ended: Vec<u32>,
    answered: HashSet<u32>,
    denied: HashSet<u32>,
    /// Streams for which the gateway itself responded before the sidecar answered.
    preempted: HashSet<u32>,
    /// True if at least one KeepAlive answer refused pools.
    refused: bool,
    table: Table,
}

/// A model of the shared table for the worst case: it applies a Settle at once, but a KeepAlive only when the plugin
/// receives the answer.
#[derive(Default)]
struct Table {
    leases: HashSet<u64>,
    /// Number of calls, except KeepAlives, that have reached the table.
    calls: usize,
    /// Tokens of the KeepAlives that have reached the table.
    kept_alive: HashSet<u32>,
}

impl Table {
    fn settle(&mut self, rig: &Rig) {
        for call in &rig.host.calls.borrow()[self.calls..] {
            if call.method == Method::Settle {
                self.leases.remove(&call.settle().lease);
            }
            self.calls += 1;
        }
    }

    fn keep_alive(&mut self, list: &KeepAliveRequest) {
        let listed: HashMap<u64, u32> = list
            .pools
            .iter()
            .flat_map(|pool| pool.leases.iter().copied().zip(pool.endpoint_of.iter().copied()))
            .collect();
        self.leases.retain(|lease| *lease > list.issued_through || listed.contains_key(lease));
        self.leases.extend(listed.iter().filter(|(_, endpoint)| **endpoint > 0).map(|(lease, _)| *lease));
    }
}

fn run(rig: &mut Rig, seen: &mut Seen, event: &Event) {
    let pick = |list: &[u32], i: usize| (!list.is_empty()).then(|| list[i % list.len()]);
    let all = |seen: &Seen| [seen.live.clone(), seen.ended.clone()].concat();
    match *event {
        Event::Arrive { refused } => {
            let context = 10 + (seen.live.len() + seen.ended.len()) as u32;
            rig.host.refuse_calls.set(refused);
            rig.arrive(context);
            rig.host.refuse_calls.set(false);
            seen.live.push(context);
            if refused {
                seen.answered.insert(context);
            }
        }
        Event::Admit(i) | Event::Open(i) | Event::Deny(i) | Event::Fail(i, _) => {
            let Some(context) = pick(&all(seen), i) else { return };
            if !seen.answered.insert(context) {
                return;
            }
            match *event {
                Event::Admit(_) => {
                    if seen.live.contains(&context) {
                        seen.table.leases.extend(rig.lease(context));
                    }
                    rig.admit(context, "h0");
                }
                Event::Open(_) => rig.answer(context, 0, Some(admitted("", Basis::Open))),
                Event::Fail(_, status) => rig.answer(context, status, None),
                _ => {
                    rig.answer(context, 0, Some(denied()));
                    if seen.live.contains(&context) && !seen.preempted.contains(&context) {
                        seen.denied.insert(context);
                    }
                }
            }
        }
        Event::Upstream(i, host) => {
            if let Some(context) = pick(&seen.live, i) {
                rig.host.set_property(context, "upstream.address", format!("h{host}").as_bytes());
            }
        }
        Event::Response(i) => {
            if let Some(context) = pick(&seen.live, i) {
                rig.host.with_stream(context, |s| {
                    s.response_headers.insert(":status".into(), "200".into());
                    s.response_headers.insert("content-type".into(), "text/event-stream".into());
                });
                rig.respond(context, "h1", 200);
                if !seen.answered.contains(&context) {
                    seen.preempted.insert(context);
                }
            }
        }
        Event::Chunk(i, bytes) => {
            if let Some(context) = pick(&seen.live, i) {
                let body = include_bytes!("../../../tests/fixtures/anthropic.sse");
                rig.host.effective.set(context);
                rig.host.with_stream(context, |s| s.response_chunk = body[..bytes].to_vec());
                rig.worker.on_response_body(&rig.host, context, bytes, i % 2 == 0);
            }
        }
        Event::End(i) => {
            if let Some(context) = pick(&seen.live, i) {
                seen.live.retain(|c| *c != context);
                seen.ended.push(context);
                rig.end(context);
            }
        }
        Event::Tick => rig.tick(),
        Event::KeptAlive(status) => {
            if let Some(call) = rig.host.calls_of(Method::KeepAlive).pop() {
                if seen.table.kept_alive.insert(call.token) {
                    seen.table.keep_alive(&call.keep_alive());
                }
                rig.host.effective.set(ROOT);
                rig.worker.on_answer(&rig.host, call.token, status, &[]);
            }
        }
        Event::Refused => {
            if let Some(call) = rig.host.calls_of(Method::KeepAlive).pop() {
                seen.refused |= seen.table.kept_alive.insert(call.token);
                let refused_pools =
                    call.keep_alive().pools.into_iter().filter_map(|list| list.pool).collect();
                let response = KeepAliveResponse { refused_pools, ..KeepAliveResponse::default() };
                rig.host.effective.set(ROOT);
                rig.worker.on_answer(&rig.host, call.token, 0, &response.encode_to_vec());
            }
        }
        Event::Pass(ms) => rig.host.advance(ms),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// These properties hold for any order of events:
    ///
    /// - Once all streams have ended, the lease table is empty.
    /// - Each lease is settled once, except denied leases. After a KeepAlive, a Settle may be repeated with the same
    ///   message.
    /// - No request is resumed twice.
    /// - Every KeepAlive lists exactly the leases held at that time. If pools were refused, it lists at least those
    ///   leases that are on known endpoints.
    /// - After each KeepAlive answer, however late the KeepAlive was applied, the shared table contains no lease that
    ///   has ended.
    #[test]
    fn every_lease_is_settled_once(events in vec(event(), 0..120)) {
        let mut rig = Rig::new("");
        let mut seen = Seen::default();
        for event in &events {
            let listed = rig.host.calls_of(Method::KeepAlive).len();
            run(&mut rig, &mut seen, event);
            seen.table.settle(&rig);
            if matches!(event, Event::KeptAlive(_)) {
                let held: HashSet<u64> = rig.worker.lease_table().leases_after(0, usize::MAX).iter().map(|(l, _)| *l).collect();
                prop_assert!(seen.table.leases.is_subset(&held), "{:?} restored", seen.table.leases.difference(&held));
            }
            prop_assert_eq!(rig.worker.lease_table().len(), seen.live.len() - seen.live.iter().filter(|c| seen.denied.contains(c)).count());
            if let Some(call) = rig.host.calls_of(Method::KeepAlive).get(listed) {
                let leases: usize = call.keep_alive().pools.iter().map(|p| p.leases.len()).sum();
                let lease_table = rig.worker.lease_table();
                let on = |lease| matches!(lease_table.get(lease).map(|held| &held.location), Some(Location::At(_)));
                let known = lease_table.leases_after(0, usize::MAX).into_iter().filter(|(lease, _)| on(*lease)).count();
                // The list may omit leases of a refused pool that are not on a known endpoint.
                prop_assert!(leases == lease_table.len() || seen.refused && (known..lease_table.len()).contains(&leases));
            }
        }
        for context in seen.live.clone() {
            rig.end(context);
        }
        prop_assert!(rig.worker.lease_table().is_empty());

        let mut settled: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let settles = rig.host.calls_of(Method::Settle);
        for call in &settles {
            let first = settled.entry(call.settle().lease).or_insert_with(|| call.message.clone());
            prop_assert_eq!(&*first, &call.message);
        }
        let repeated = rig.host.count_of(Counter::SettlesRepeated) as usize;
        prop_assert_eq!(settles.len(), settled.len() + repeated);
        let leases: HashMap<u32, u64> = rig.host.calls_of(Method::Admit).iter().map(|c| (c.context, c.admit().lease)).collect();
        for (context, lease) in leases {
            prop_assert_eq!(settled.contains_key(&lease), !seen.denied.contains(&context));
        }
        let issued = rig.worker.lease_table().issued_through() as usize;
        prop_assert_eq!(settled.len() + seen.denied.len(), issued);
        for (context, stream) in rig.host.streams.borrow().iter() {
            prop_assert!(stream.resumed <= 1, "stream {} resumed {} times", context, stream.resumed);
            prop_assert!(stream.resumed == 0 || stream.response.is_none());
        }
    }
}
