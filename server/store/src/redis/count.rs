//! One call of the script `count`: operations put into its shape, and its answers handed back.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use evenkeel_domain::{
    StoreError,
    clock::DAY_MS,
    limit::{Bucket, CounterRule, Meter, Window},
};
use evenkeel_telemetry::traces::StoreSpan;
use rmp::encode::{write_array_len, write_sint, write_str, write_uint};
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use super::{
    Shared,
    keys::Keys,
    lane::{BATCH_MAX, Work},
    link::Way,
    script::{COUNT, Call, Numbers},
};
use crate::counters::{Entry, Note, Reading, ReservationId, Verdict};

/// Most counters in one script call: bounds how long Redis is busy with it.
const COUNTERS_MAX: usize = 1024;

pub(super) type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// The span of an operation, where it is recorded.
type Traced = Option<Box<StoreSpan>>;

/// One operation.
pub(super) enum Op {
    Reserve { id: Option<ReservationId>, meters: Vec<Meter>, how: How, answer: Answer<Verdict>, span: Traced },
    Settle { id: ReservationId, note: Option<Note>, entries: Vec<Entry>, answer: Answer<bool>, span: Traced },
}

/// What is done about a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// It is made.
    Make = 0,
    /// Nothing: what would become of it is told.
    Look = 1,
    /// What it took, as noted, is given back.
    GiveBack = 2,
}

impl Op {
    fn counters(&self) -> usize {
        match self {
            Self::Reserve { meters, .. } => meters.len(),
            Self::Settle { entries, .. } => entries.len(),
        }
    }

    /// Whose reservation it notes or settles, and where that was noted.
    fn noted(&self) -> Option<(&ReservationId, Option<&Note>)> {
        match self {
            Self::Reserve { id, .. } => id.as_ref().map(|id| (id, None)),
            Self::Settle { id, note, .. } => note.as_ref().map(|note| (id, Some(note))),
        }
    }

    /// Tells its span that it leaves, in a call of so many.
    fn sent(&mut self, operations: usize) {
        let counters = self.counters();
        let (Self::Reserve { span, .. } | Self::Settle { span, .. }) = self;
        if let Some(span) = span {
            span.sent(operations);
            span.set_number("evenkeel.store.counters", counters);
        }
    }

    fn fail(self, error: &StoreError) {
        match self {
            Self::Reserve { answer, span, .. } => {
                StoreSpan::ended(span, Some(error));
                drop(answer.send(Err(error.clone())));
            }
            Self::Settle { answer, span, .. } => {
                StoreSpan::ended(span, Some(error));
                drop(answer.send(Err(error.clone())));
            }
        }
    }
}

/// The work of a lane of counters.
pub(super) struct CountWork {
    /// Under which reservations are noted.
    pub(super) tag: Arc<str>,
    pub(super) keys: Keys,
    pub(super) shared: Arc<Shared>,
}

impl Work for CountWork {
    type Op = Op;

    /// In order, as long as no reservation is named twice.
    fn next_batch(queue: &VecDeque<Op>) -> usize {
        let mut named = HashSet::with_capacity(queue.len().min(BATCH_MAX));
        let mut counters = 0;
        let fits = |op: &&Op| {
            counters += op.counters();
            counters <= COUNTERS_MAX || counters == op.counters()
        };
        let ids = queue.iter().take(BATCH_MAX).take_while(fits).map(|op| op.noted().map(|(id, _)| id));
        ids.take_while(|id| id.is_none_or(|id| named.insert(id))).count()
    }

    async fn commit(&self, mut ops: Vec<Op>) {
        let operations = ops.len();
        self.shared.metrics.store_batch.observe(operations as f64);
        ops.iter_mut().for_each(|op| op.sent(operations));
        let Err((ops, error)) = self.send(ops).await else { return };
        // A key of another type, say: the others of the batch are not to suffer from it.
        if ops.len() > 1 && matches!(error, StoreError::Script { .. }) {
            for op in ops {
                if let Err((op, error)) = self.send(vec![op]).await {
                    op.into_iter().for_each(|op| op.fail(&error));
                }
            }
        } else {
            ops.into_iter().for_each(|op| op.fail(&error));
        }
    }

    fn fail(op: Op, error: &StoreError) {
        op.fail(error);
    }
}

impl CountWork {
    /// Sends a batch and hands out its answers; where that fails, hands it back.
    async fn send(&self, ops: Vec<Op>) -> Result<(), (Vec<Op>, StoreError)> {
        let today = self.shared.clock.about_now_ms() / DAY_MS;
        let (call, days) = Batch::new(self, &ops, today).call(&ops, today);
        match self.shared.run_packed(&call, Way::Request).await {
            Ok(reply) => {
                self.deliver(ops, reply, &days, today);
                Ok(())
            }
            Err(error) => Err((ops, error)),
        }
    }

    fn deliver(&self, ops: Vec<Op>, mut reply: Numbers, days: &[u64], today: u64) {
        let head = reply.count().and_then(|now| {
            let epochs = days.iter().map(|_| reply.count()).collect::<Result<Vec<u64>, _>>()?;
            Ok((now, epochs))
        });
        let (now, epochs) = match head {
            Ok(head) => head,
            Err(error) => return ops.into_iter().for_each(|op| op.fail(&error)),
        };
        let epoch = days.iter().position(|day| *day == today).map_or(0, |i| epochs[i]);
        let note = Note { tag: Arc::clone(&self.tag), day: today, epoch };
        let (settlements, reservations): (Vec<Op>, Vec<Op>) =
            ops.into_iter().partition(|op| matches!(op, Op::Settle { .. }));
        for op in settlements {
            if let Op::Settle { answer, span, .. } = op {
                let settled = reply.count().map(|n| n == 1);
                StoreSpan::ended(span, settled.as_ref().err());
                drop(answer.send(settled));
            }
        }
        for op in reservations {
            if let Op::Reserve { id, meters, how, answer, span } = op {
                let note = (id.is_some() && how == How::Make).then_some(&note);
                let verdict = match how {
                    How::GiveBack => {
                        reply.count().map(|n| Verdict { admitted: n == 1, ..Verdict::default() })
                    }
                    How::Make | How::Look => verdict(&mut reply, &meters, note, now),
                };
                StoreSpan::ended(span, verdict.as_ref().err());
                drop(answer.send(verdict));
            }
        }
    }
}

fn verdict(
    reply: &mut Numbers,
    meters: &[Meter],
    note: Option<&Note>,
    now: u64,
) -> Result<Verdict, StoreError> {
    let admitted = reply.count()? == 1;
    let mut readings = Vec::with_capacity(meters.len());
    for meter in meters {
        let mut reading = Reading::default();
        if admitted {
            reading.used = reply.count()?;
            reading.taken = reply.count()?;
            reading.amount = reply.count()?;
            reading.window = reply.count()?;
            reading.reserved = reply.count()?;
        } else {
            reading.over = reply.count()? == 1;
            reading.used = reply.count()?;
            reading.amount = reply.count()?;
            reading.retry_ms = reply.count()?;
            reading.final_ms = reply.count()?;
            reading.reserved = reply.count()?;
        }
        reading.reset_ms = meter.rule.reset_ms(reading.used, now);
        readings.push(reading);
    }
    let notes = note.filter(|_| admitted).cloned().into_iter().collect();
    Ok(Verdict { admitted, readings, notes, ..Verdict::default() })
}

/// Where an operation's counter is among all that a call names.
#[derive(Clone, Copy)]
enum Slot {
    /// Index of the hash, and of the name within it.
    Cell(usize, usize),
    /// Number of the sorted set.
    Running(usize),
}

/// Operations looked through for what they need.
struct Batch<'a> {
    work: &'a CountWork,
    /// Keys of counters, with the names wanted of each.
    buckets: Vec<(String, Vec<&'a str>)>,
    bucket_of: FxHashMap<(&'a Bucket, bool), usize>,
    running: Vec<String>,
    running_of: FxHashMap<(&'a Bucket, &'a str), usize>,
    /// Days of notes, with the ids wanted of each.
    notes: Vec<(u64, Vec<String>)>,
    rules: Vec<&'a CounterRule>,
    /// Of each counter of each operation, in order: where it is, and the number of its rule.
    slots: Vec<(Slot, usize)>,
}

impl<'a> Batch<'a> {
    fn new(work: &'a CountWork, ops: &'a [Op], today: u64) -> Self {
        let mut batch = Self {
            work,
            buckets: Vec::new(),
            bucket_of: FxHashMap::default(),
            running: Vec::new(),
            running_of: FxHashMap::default(),
            notes: Vec::new(),
            rules: Vec::new(),
            slots: Vec::with_capacity(ops.len() * 4),
        };
        for op in ops {
            match op {
                Op::Reserve { meters, .. } => {
                    meters.iter().for_each(|m| batch.want(&m.bucket, &m.name, &m.rule));
                }
                Op::Settle { entries, .. } => {
                    entries.iter().for_each(|e| batch.want(&e.bucket, &e.name, &e.rule));
                }
            }
            if let Some((id, note)) = op.noted() {
                let day = note.map_or(today, |note| note.day);
                let known = batch.day(day).unwrap_or_else(|| {
                    batch.notes.push((day, Vec::new()));
                    batch.notes.len() - 1
                });
                batch.notes[known].1.push(id_text(id));
            }
        }
        batch
    }

    fn day(&self, day: u64) -> Option<usize> {
        self.notes.iter().position(|(known, _)| *known == day)
    }

    fn want(&mut self, bucket: &'a Bucket, name: &'a str, rule: &'a CounterRule) {
        let number = self.rules.iter().position(|known| *known == rule).unwrap_or_else(|| {
            self.rules.push(rule);
            self.rules.len() - 1
        });
        let keys = &self.work.keys;
        let slot = if matches!(rule, CounterRule::Running { .. }) {
            let running = &mut self.running;
            Slot::Running(*self.running_of.entry((bucket, name)).or_insert_with(|| {
                running.push(keys.running(bucket, name));
                running.len()
            }))
        } else {
            let buckets = &mut self.buckets;
            let quota = rule.is_quota();
            let index = *self.bucket_of.entry((bucket, quota)).or_insert_with(|| {
                let key = if quota { keys.quotas(bucket) } else { keys.counters(bucket) };
                buckets.push((key, Vec::with_capacity(4)));
                buckets.len() - 1
            });
            let names = &mut buckets[index].1;
            let at = names.iter().position(|known| is_same(known, name)).unwrap_or_else(|| {
                names.push(name);
                names.len() - 1
            });
            Slot::Cell(index, at)
        };
        self.slots.push((slot, number + 1));
    }

    /// The call, and the days of its notes.
    fn call(&self, ops: &[Op], today: u64) -> (Call, Vec<u64>) {
        let work = self.work;
        let days: Vec<u64> = self.notes.iter().map(|(day, _)| *day).collect();
        let notes: Vec<String> = days.iter().map(|day| work.keys.notes(&work.tag, *day)).collect();
        let buckets = self.buckets.iter().map(|(key, _)| key.as_str());
        let others = self.running.iter().chain(&notes).map(String::as_str);
        let keys: Vec<&str> = buckets.chain(others).collect();
        let mut call = Call::new(&COUNT, &keys);
        work.shared.clock.tell(&mut call);
        let (words, sets) = self.words();
        let (settlements, reservations) = self.numbers(ops, today);
        call.bytes(&words).bytes(&sets.0).bytes(&settlements.0).bytes(&reservations.0);
        (call, days)
    }

    /// `{ sets, running, notes, rules }`, and the set of names of each hash of counters; see lua/count.lua.
    fn words(&self) -> (Vec<u8>, Doubles) {
        let mut sets: Vec<&[&str]> = Vec::new();
        let mut set_of = Doubles::default();
        for (_, names) in &self.buckets {
            let same =
                |set: &&[&str]| set.len() == names.len() && set.iter().zip(names).all(|(a, b)| is_same(a, b));
            let number = sets.iter().position(same).unwrap_or_else(|| {
                sets.push(names);
                sets.len() - 1
            });
            set_of.push([number as u64 + 1]);
        }
        let mut out = Vec::with_capacity(256 + 32 * self.slots.len());
        array(&mut out, 4);
        array(&mut out, sets.len());
        for set in sets {
            texts(&mut out, set.iter().copied());
        }
        number(&mut out, self.running.len() as u64);
        array(&mut out, self.notes.len());
        for (_, ids) in &self.notes {
            texts(&mut out, ids.iter().map(String::as_str));
        }
        array(&mut out, self.rules.len());
        self.rules.iter().for_each(|rule| encode_rule(rule, &mut out));
        (out, set_of)
    }

    /// Settlements and reservations.
    fn numbers(&self, ops: &[Op], today: u64) -> (Doubles, Doubles) {
        let mut first_cell = Vec::with_capacity(self.buckets.len());
        let mut cells = 0;
        for (_, names) in &self.buckets {
            first_cell.push(cells);
            cells += names.len();
        }
        // Notes are numbered day by day, and within a day in the order of the operations.
        let mut noted = 0;
        let mut next_note = Vec::with_capacity(self.notes.len());
        for (_, ids) in &self.notes {
            next_note.push(noted);
            noted += ids.len() as u64;
        }
        let mut slots = self.slots.iter().map(|(slot, rule)| {
            let cell = match slot {
                Slot::Cell(bucket, at) => first_cell[*bucket] + at + 1,
                Slot::Running(number) => *number,
            };
            (cell as u64, *rule as u64)
        });
        let (mut settlements, mut reservations) = (Doubles::default(), Doubles::default());
        for op in ops {
            let note = op.noted().and_then(|(_, note)| self.day(note.map_or(today, |note| note.day)));
            let note = note.map_or(0, |day| {
                next_note[day] += 1;
                next_note[day]
            });
            match op {
                Op::Settle { note: noted, entries, .. } => {
                    let epoch = noted.as_ref().map_or(0, |note| note.epoch);
                    settlements.push([note, epoch, entries.len() as u64]);
                    for (e, (cell, rule)) in entries.iter().zip(&mut slots) {
                        let flags = if e.provisional { 2 } else { 0 };
                        settlements.push([cell, rule, e.window, e.reserved, e.actual, flags]);
                    }
                }
                Op::Reserve { meters, how, .. } => {
                    reservations.push([note, *how as u64, meters.len() as u64]);
                    for (m, (cell, rule)) in meters.iter().zip(&mut slots) {
                        let flags = u64::from(m.shadow) + if m.provisional { 2 } else { 0 };
                        reservations.push([cell, rule, m.cost, flags]);
                    }
                }
            }
        }
        (settlements, reservations)
    }
}

/// Mostly they are one and the same text.
fn is_same(a: &str, b: &str) -> bool {
    std::ptr::eq(a, b) || a == b
}

/// Numbers as packed doubles, least significant byte first: a script takes them apart eight times as fast as MessagePack.
#[derive(Default)]
struct Doubles(Vec<u8>);

impl Doubles {
    fn push<const N: usize>(&mut self, numbers: [u64; N]) {
        for number in numbers {
            self.0.extend_from_slice(&(number as f64).to_le_bytes());
        }
    }
}

// Writing to a Vec cannot fail.

fn array(out: &mut Vec<u8>, len: usize) {
    let _ = write_array_len(out, len as u32);
}

fn number(out: &mut Vec<u8>, n: u64) {
    let _ = write_uint(out, n);
}

fn texts<'a>(out: &mut Vec<u8>, texts: impl ExactSizeIterator<Item = &'a str>) {
    array(out, texts.len());
    for text in texts {
        let _ = write_str(out, text);
    }
}

fn encode_rule(rule: &CounterRule, out: &mut Vec<u8>) {
    let or_none = |default: Option<u64>| default.map_or(-1, |n| n as i64);
    let windows = |window: Window| match window {
        Window::Length(length) => vec![length as i64],
        Window::Edges(edges) => edges.iter().map(|edge| *edge as i64).collect(),
    };
    let (kind, numbers) = match *rule {
        CounterRule::Fixed { amount, window } => (1, [vec![amount as i64], windows(window)].concat()),
        CounterRule::Sliding { amount, period_ms } => (2, vec![amount as i64, period_ms as i64]),
        CounterRule::TokenBucket { burst, amount, period_ms } => {
            (3, vec![burst as i64, amount as i64, period_ms as i64])
        }
        CounterRule::Running { amount, ttl_ms } => (4, vec![amount as i64, ttl_ms as i64]),
        CounterRule::Prepaid { default } => (5, vec![or_none(default)]),
        CounterRule::Budget { default, window } => (6, [vec![or_none(default)], windows(window)].concat()),
    };
    array(out, 1 + numbers.len());
    number(out, kind);
    for n in numbers {
        let _ = write_sint(out, n);
    }
}

/// A reservation as the scripts name it.
pub(super) fn id_text(id: &ReservationId) -> String {
    format!("{}/{}", id.holder, id.lease)
}
