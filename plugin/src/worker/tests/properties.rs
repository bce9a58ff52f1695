//! Properties that hold for any interleaving of events.

use std::collections::{BTreeMap, HashSet};

use evenkeel_proto::v1::{FromWorker, Pool};
use proptest::{collection::vec, prelude::*};

use super::*;

/// An event at the gateway, at the sidecar or between them. If the first field of an event is a `usize`, it selects a
/// stream.
#[derive(Clone, Debug)]
enum Event {
    Arrive,
    /// The sidecar answers an Admit that it has read.
    Answer(usize, Kind),
    Upstream(usize, u8),
    Response(usize),
    /// A chunk of this many bytes of a response passes the plugin.
    Chunk(usize, usize),
    End(usize),
    /// The sidecar reads up to this many messages.
    Read(usize),
    Acknowledge,
    ApplyList,
    /// The sidecar does not serve the pool.
    RefusePool,
    Leave,
    /// The stream ends with this status. What the sidecar has not read is lost.
    Cut(u32),
    /// Time passes, with the ticks that the plugin has asked for.
    Pass(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Admitted,
    Open,
    Denied,
    Invalid,
    Failed,
    Unreadable,
}

fn event() -> impl Strategy<Value = Event> {
    let stream = 0..8_usize;
    let kind = prop_oneof![
        4 => Just(Kind::Admitted),
        1 => Just(Kind::Open),
        2 => Just(Kind::Denied),
        1 => Just(Kind::Invalid),
        1 => Just(Kind::Failed),
        1 => Just(Kind::Unreadable),
    ];
    prop_oneof![
        6 => Just(Event::Arrive),
        6 => (stream.clone(), kind).prop_map(|(s, kind)| Event::Answer(s, kind)),
        2 => (stream.clone(), 0..3_u8).prop_map(|(s, host)| Event::Upstream(s, host)),
        3 => stream.clone().prop_map(Event::Response),
        1 => (stream.clone(), 0..600_usize).prop_map(|(s, bytes)| Event::Chunk(s, bytes)),
        5 => stream.prop_map(Event::End),
        8 => (1..4_usize).prop_map(Event::Read),
        2 => Just(Event::Acknowledge),
        2 => Just(Event::ApplyList),
        1 => Just(Event::RefusePool),
        1 => Just(Event::Leave),
        2 => prop_oneof![Just(14_u32), Just(0), Just(10)].prop_map(Event::Cut),
        5 => prop_oneof![4 => 1..30_u64, 1 => 30..3000_u64].prop_map(Event::Pass),
    ]
}

/// What a sidecar knows of one stream.
#[derive(Default)]
struct View {
    /// Number of messages of this stream that it has read.
    read: usize,
    /// Leases whose Admit it has read.
    asked: HashSet<u64>,
    /// Largest number of a settlement that it has read.
    settled_through: u64,
    has_list: bool,
}

/// The sidecars' view. They read the messages of a stream in their order, and share a table.
#[derive(Default)]
struct Sidecar {
    streams: HashMap<u32, View>,
    /// Leases whose Admit was read on any stream.
    asked: HashSet<u64>,
    settled: BTreeMap<u64, SettleRequest>,
    cancelled: HashSet<u64>,
    /// The leases that are counted.
    table: HashSet<u64>,
}

/// Returns the tokens of the open streams, the oldest first.
fn tokens(rig: &Rig) -> Vec<u32> {
    let mut tokens: Vec<u32> = rig.host.open.borrow().iter().copied().collect();
    tokens.sort_unstable();
    tokens
}

impl Sidecar {
    /// Reads the next message of a stream. Returns false if there is none.
    fn read(&mut self, rig: &mut Rig, token: u32) -> bool {
        if !rig.host.open.borrow().contains(&token) {
            return false;
        }
        let view = self.streams.entry(token).or_default();
        let message = {
            let sent = rig.host.sent.borrow();
            sent.iter().filter(|sent| sent.token == token).nth(view.read).map(|sent| sent.message.clone())
        };
        let Some(message) = message else { return false };
        view.read += 1;
        let says_hello = message.hello.is_some();
        self.apply(token, message);
        if says_hello {
            let welcome = Some(Welcome::default());
            rig.say_on(token, &ToWorker { welcome, ..ToWorker::default() });
        }
        true
    }

    fn apply(&mut self, token: u32, message: FromWorker) {
        let view = self.streams.entry(token).or_default();
        assert!(
            message.settlements.is_empty() || message.first_settlement > view.settled_through,
            "in order"
        );
        if !message.settlements.is_empty() {
            view.settled_through = message.first_settlement + message.settlements.len() as u64 - 1;
        }
        for settlement in message.settlements {
            self.table.remove(&settlement.lease);
            if let Some(earlier) = self.settled.insert(settlement.lease, settlement.clone()) {
                assert_eq!(earlier, settlement, "settled twice");
            }
        }
        for lease in message.cancelled {
            self.table.remove(&lease);
            self.cancelled.insert(lease);
        }
        if let Some(admit) = message.admit {
            self.asked.insert(admit.lease);
            view.asked.insert(admit.lease);
            self.table.insert(admit.lease);
        }
        if let Some(list) = message.leases {
            let listed: HashMap<u64, u32> = list
                .pools
                .iter()
                .flat_map(|pool| pool.leases.iter().copied().zip(pool.endpoint_of.iter().copied()))
                .collect();
            self.table.retain(|lease| *lease > list.issued_through || listed.contains_key(lease));
            self.table.extend(listed.iter().filter(|(_, endpoint)| **endpoint > 0).map(|(lease, _)| *lease));
            view.has_list = true;
        }
    }
}

/// A request in the gateway.
#[derive(Clone, Debug)]
struct Request {
    context: u32,
    lease: u64,
    arrived_ms: u64,
    /// True if the sidecar's answer refused the request, or failed and `on_error` refuses it.
    refused: bool,
    response_started: bool,
}

struct Run {
    rig: Rig,
    sidecar: Sidecar,
    closed: bool,
    live: Vec<Request>,
    ended: Vec<Request>,
}

impl Run {
    fn awaits(&self, context: u32) -> bool {
        self.rig.worker.streams.get(&context).is_some_and(|s| matches!(s.phase, Phase::AwaitingAdmit { .. }))
    }

    fn pass(&mut self, ms: u64) {
        let until_ms = self.rig.host.now_ms.get() + ms;
        while self.rig.host.now_ms.get() < until_ms {
            let step_ms = self.rig.host.tick_ms.get().min(until_ms - self.rig.host.now_ms.get());
            self.rig.host.advance(step_ms);
            self.rig.tick();
            for request in self.live.iter().filter(|request| self.awaits(request.context)) {
                assert!(self.rig.host.now_ms.get() < request.arrived_ms + 50 + 10, "late: {request:?}");
            }
        }
    }

    fn apply(&mut self, event: &Event) {
        let picked = |i: usize| (!self.live.is_empty()).then(|| i % self.live.len());
        match *event {
            Event::Arrive => {
                let context = 10 + (self.live.len() + self.ended.len()) as u32;
                self.rig.arrive(context);
                let lease = self.rig.worker.lease_table().issued_through();
                let arrived_ms = self.rig.host.now_ms.get();
                let refused = self.rig.host.with_stream(context, |s| s.response.is_some());
                self.live.push(Request { context, lease, arrived_ms, refused, response_started: false });
            }
            Event::Answer(i, kind) => {
                let Some(index) = picked(i) else { return };
                let Request { context, lease, .. } = self.live[index];
                let was_asked = |token: &u32| {
                    self.sidecar.streams.get(token).is_some_and(|view| view.asked.contains(&lease))
                };
                let Some(token) = tokens(&self.rig).into_iter().find(was_asked) else { return };
                let awaited = self.awaits(context);
                let (code, answer) = match kind {
                    Kind::Admitted => (0, Some(admitted("h0", Basis::Shared))),
                    Kind::Open => (0, Some(admitted("", Basis::Open))),
                    Kind::Denied => (0, Some(denied())),
                    Kind::Invalid => (3, None),
                    Kind::Failed => (14, None),
                    Kind::Unreadable => (0, None),
                };
                self.rig.answer_on(token, lease, code, answer);
                let failed = self.closed && matches!(kind, Kind::Failed | Kind::Unreadable);
                let is_refusal = failed || matches!(kind, Kind::Denied | Kind::Invalid);
                if awaited && is_refusal {
                    self.live[index].refused = true;
                    self.sidecar.table.remove(&lease);
                }
            }
            Event::Upstream(i, host) => {
                if let Some(index) = picked(i) {
                    let address = format!("h{host}");
                    let context = self.live[index].context;
                    self.rig.host.set_property(context, "upstream.address", address.as_bytes());
                }
            }
            Event::Response(i) => {
                let Some(index) = picked(i) else { return };
                let context = self.live[index].context;
                self.rig.host.with_stream(context, |s| {
                    s.response_headers.insert(":status".into(), "200".into());
                    s.response_headers.insert("content-type".into(), "text/event-stream".into());
                });
                self.rig.respond(context, "h1", 200);
                self.live[index].response_started = true;
            }
            Event::Chunk(i, bytes) => {
                let Some(index) = picked(i) else { return };
                let context = self.live[index].context;
                let body = include_bytes!("../../../tests/fixtures/anthropic.sse");
                self.rig.host.call(context);
                self.rig.host.with_stream(context, |s| s.response_chunk = body[..bytes].to_vec());
                self.rig.worker.on_response_body(&self.rig.host, context, bytes, i % 2 == 0);
            }
            Event::End(i) => {
                if let Some(index) = picked(i) {
                    let request = self.live.remove(index);
                    self.rig.end(request.context);
                    self.ended.push(request);
                }
            }
            Event::Read(messages) => {
                for token in tokens(&self.rig) {
                    for _ in 0..messages {
                        self.sidecar.read(&mut self.rig, token);
                    }
                }
            }
            Event::Acknowledge => {
                for token in tokens(&self.rig) {
                    let settled_through = self.sidecar.streams.entry(token).or_default().settled_through;
                    self.rig.say_on(token, &ToWorker { settled_through, ..ToWorker::default() });
                }
            }
            Event::ApplyList | Event::RefusePool => {
                let pool = Pool { route: "chat".into(), cluster: "llm".into() };
                let refused_pools = if matches!(event, Event::RefusePool) { vec![pool] } else { Vec::new() };
                let repaired = Some(KeepAliveResponse { refused_pools, ..KeepAliveResponse::default() });
                for token in tokens(&self.rig) {
                    let view = self.sidecar.streams.entry(token).or_default();
                    if std::mem::take(&mut view.has_list) {
                        let repaired = repaired.clone();
                        self.rig.say_on(token, &ToWorker { repaired, ..ToWorker::default() });
                    }
                }
            }
            Event::Leave => {
                if let Some(token) = tokens(&self.rig).first() {
                    self.rig.say_on(*token, &ToWorker { leave: true, ..ToWorker::default() });
                }
            }
            Event::Cut(status) => {
                let tokens = tokens(&self.rig);
                if let Some(token) = if status == 14 { tokens.last() } else { tokens.first() } {
                    self.rig.cut_stream(*token, status);
                }
            }
            Event::Pass(ms) => self.pass(ms),
        }
    }

    /// Lets the sidecar read and answer everything until nothing is left.
    fn settle_down(&mut self) {
        for _ in 0..1000 {
            let mut read = 0;
            for token in tokens(&self.rig) {
                while self.sidecar.read(&mut self.rig, token) {
                    read += 1;
                }
            }
            self.apply(&Event::Acknowledge);
            self.apply(&Event::ApplyList);
            self.pass(100);
            let worker = &self.rig.worker;
            let is_quiet = worker.outbox.unacknowledged() == 0 && worker.admissions.is_empty();
            if is_quiet && worker.connection.is_ready() && read == 0 {
                return;
            }
        }
        panic!("never settles down: {:?}", self.rig.worker.connection);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// These properties hold for any order of events:
    ///
    /// - Every request is resumed or answered once, no later than its deadline plus a tick.
    /// - A request that went on is settled once. One that did not is cancelled, or settled as not sent, if the sidecar
    ///   was asked and has not refused it.
    /// - The sidecar reads settlements in the order of their numbers.
    /// - Once the sidecar has read everything, it counts no lease that has ended, and every lease of a request whose
    ///   endpoint the plugin knows.
    #[test]
    fn every_request_is_decided_once_and_every_lease_is_settled_or_cancelled(
        closed in any::<bool>(),
        events in vec(event(), 0..120),
    ) {
        let config = if closed { r#"{"on_error":"closed"}"# } else { "" };
        let rig = Rig::unconnected(config);
        let mut run = Run { rig, sidecar: Sidecar::default(), closed, live: Vec::new(), ended: Vec::new() };
        for event in &events {
            run.apply(event);
        }
        run.apply(&Event::Arrive); // makes the plugin connect if it has not
        run.settle_down();
        let held: HashSet<u64> =
            run.rig.worker.lease_table().leases_after(0, usize::MAX).iter().map(|(lease, _)| *lease).collect();
        prop_assert!(run.sidecar.table.is_subset(&held), "{:?}", run.sidecar.table.difference(&held));
        while !run.live.is_empty() {
            run.apply(&Event::End(0));
        }
        prop_assert!(run.rig.worker.lease_table().is_empty() && run.rig.worker.streams.is_empty());
        run.settle_down();
        prop_assert!(run.sidecar.table.is_empty(), "{:?}", run.sidecar.table);
        prop_assert_eq!(run.rig.host.lost.get(), 0);
        prop_assert!(run.rig.host.tokens.borrow().len() == 1);

        for Request { context, lease, refused, .. } in &run.ended {
            let (resumed, answered) = run.rig.host.with_stream(*context, |s| (s.resumed, s.response.is_some()));
            let proceeded = resumed == 1 || run.rig.lease(*context).is_none() && !answered;
            prop_assert!(resumed <= 1 && !(resumed == 1 && answered));
            let (settled, cancelled, asked) = (
                run.sidecar.settled.contains_key(lease),
                run.sidecar.cancelled.contains(lease),
                run.sidecar.asked.contains(lease),
            );
            prop_assert!(settled || !proceeded, "lease {}", lease);
            if settled && !proceeded {
                prop_assert_eq!(run.sidecar.settled[lease].outcome(), Outcome::NotSent);
            }
            if asked && !proceeded {
                prop_assert_eq!(cancelled || settled, !refused, "lease {}", lease);
            }
        }
    }
}
