//! Encodes a batch of operations as a call of the script `count`; lua/count.lua describes the arguments.

use evenkeel_domain::{
    clock::DAY_MS,
    limit::{Bucket, CounterRule, Window},
};
use rustc_hash::FxHashMap;

use super::{
    call::Call,
    counter_operation::{Op, Place as Lane, id_text},
    keys::Keys,
    script::COUNT,
};

/// What reading the reply to a call requires.
#[derive(Default)]
pub(super) struct Sent {
    /// The day of newly made records.
    pub(super) today: u64,
    /// The days whose hashes of records are among the keys of the call, in the order of the keys.
    pub(super) days: Vec<u64>,
    /// For each reservation, the script's order of its meters. Empty if that order equals the order in the operation.
    pub(super) orders: Vec<Vec<usize>>,
}

/// A counter of an operation.
#[derive(Clone, Copy)]
struct Place<'a> {
    bucket: &'a Bucket,
    name: &'a str,
    rule: &'a CounterRule,
    flags: u64,
}

impl<'a> Place<'a> {
    fn of(op: &'a Op, i: usize) -> Self {
        match op {
            Op::Reserve { meters, .. } => {
                let meter = &meters[i];
                let flags = u64::from(meter.shadow) + if meter.provisional { 2 } else { 0 };
                Self { bucket: &meter.bucket, name: &meter.name, rule: &meter.rule, flags }
            }
            Op::Settle { entries, .. } => {
                let entry = &entries[i];
                let flags = if entry.provisional { 2 } else { 0 };
                Self { bucket: &entry.bucket, name: &entry.name, rule: &entry.rule, flags }
            }
        }
    }

    fn is_running(&self) -> bool {
        matches!(self.rule, CounterRule::Running { .. })
    }

    /// Returns the tag and the rest of the key of the string that contains this counter. A quota is a counter of its
    /// consumer, so its rest is empty.
    fn string(&self) -> (&'a str, &'a str) {
        (&self.bucket.tag, if self.rule.is_quota() { "" } else { &self.bucket.rest })
    }

    fn shares_string(&self, other: &Self) -> bool {
        let ((tag, rest), (other_tag, other_rest)) = (self.string(), other.string());
        is_same(tag, other_tag) && is_same(rest, other_rest)
    }
}

/// Returns the order in which the script takes the counters of an operation: counters of concurrent requests first,
/// then string by string. Empty if the counters already have that order.
fn order(op: &Op) -> Vec<usize> {
    let n = op.counters();
    let first = (n > 0).then(|| Place::of(op, 0));
    if first.is_none_or(|first| {
        !first.is_running()
            && (1..n).all(|i| {
                let place = Place::of(op, i);
                !place.is_running() && place.shares_string(&first)
            })
    }) {
        return Vec::new();
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_cached_key(|i| {
        let place = Place::of(op, *i);
        let is_first = |j: &usize| {
            let other = Place::of(op, *j);
            !other.is_running() && other.shares_string(&place)
        };
        if place.is_running() { 0 } else { 1 + (0..*i).find(is_first).unwrap_or(*i) }
    });
    order
}

/// What operations of one kind on counters with the same names and rules have in common.
#[derive(PartialEq)]
struct Shape {
    /// `How` of a reservation, as a number.
    mode: u64,
    /// Number of counters of concurrent requests.
    running: usize,
    /// Numbers of the sets.
    sets: Vec<usize>,
}

/// The parts of a call under construction.
struct Batch<'a> {
    keys: &'a Keys,
    strings: Vec<String>,
    string_of: FxHashMap<(&'a str, &'a str), usize>,
    zsets: Vec<String>,
    zset_of: FxHashMap<(&'a Bucket, &'a str), usize>,
    names: Vec<&'a str>,
    rules: Vec<(&'a CounterRule, u64)>,
    /// Each set is a list of names and rules, by number.
    sets: Vec<Vec<(usize, usize)>>,
    shapes: Vec<Shape>,
    settlements: Doubles,
    reservations: Doubles,
}

/// Returns the call, and what reading its reply requires.
pub(super) fn call(work: &Lane, ops: &[Op]) -> (Call, Sent) {
    let today = work.shared.clock.about_now_ms() / DAY_MS;
    // Numbers the reservations from 1, day by day, and within a day in the order of the operations.
    let mut records: Vec<(u64, Vec<String>)> = Vec::new();
    for op in ops {
        if let Some((id, record)) = op.recorded() {
            let day = record.map_or(today, |record| record.day);
            let known = records.iter().position(|(known, _)| *known == day).unwrap_or_else(|| {
                records.push((day, Vec::new()));
                records.len() - 1
            });
            records[known].1.push(id_text(id));
        }
    }
    let mut numbered = 0;
    let mut next: Vec<(u64, usize)> = Vec::with_capacity(records.len());
    for (day, ids) in &records {
        next.push((*day, numbered));
        numbered += ids.len();
    }
    let mut batch = Batch::new(&work.keys, ops.len());
    let mut orders = Vec::with_capacity(ops.len());
    for op in ops {
        let record = op.recorded().and_then(|(_, record)| {
            let day = record.map_or(today, |record| record.day);
            let (_, number) = next.iter_mut().find(|(known, _)| *known == day)?;
            *number += 1;
            Some(*number)
        });
        let order = order(op);
        batch.add(op, record.unwrap_or(0), &order);
        if matches!(op, Op::Reserve { .. }) {
            orders.push(order);
        }
    }
    let days: Vec<u64> = records.iter().map(|(day, _)| *day).collect();
    let hashes: Vec<String> = days.iter().map(|day| work.keys.reservations(&work.tag, *day)).collect();
    let keys: Vec<&str> =
        batch.strings.iter().chain(&batch.zsets).chain(&hashes).map(String::as_str).collect();
    let mut call = Call::new(&COUNT, &keys);
    work.shared.clock.tell(&mut call);
    batch.arguments(&records, &mut call);
    (call, Sent { today, days, orders })
}

impl<'a> Batch<'a> {
    fn new(keys: &'a Keys, operations: usize) -> Self {
        Self {
            keys,
            strings: Vec::with_capacity(operations),
            string_of: FxHashMap::with_capacity_and_hasher(operations, Default::default()),
            zsets: Vec::new(),
            zset_of: FxHashMap::default(),
            names: Vec::new(),
            rules: Vec::new(),
            sets: Vec::new(),
            shapes: Vec::new(),
            settlements: Doubles::default(),
            reservations: Doubles::default(),
        }
    }

    fn add(&mut self, op: &'a Op, record: usize, order: &[usize]) {
        let n = op.counters();
        let at = |i: usize| order.get(i).copied().unwrap_or(i);
        let running = (0..n).take_while(|i| Place::of(op, at(*i)).is_running()).count();
        // Where the counters of one string end.
        let mut ends = Vec::with_capacity(2);
        for i in running..n {
            let is_last = i + 1 == n || !Place::of(op, at(i)).shares_string(&Place::of(op, at(i + 1)));
            if is_last {
                ends.push(i + 1);
            }
        }
        let mut sets = Vec::with_capacity(ends.len());
        let mut from = running;
        for end in &ends {
            sets.push(self.set((from..*end).map(|i| Place::of(op, at(i)))));
            from = *end;
        }
        match op {
            Op::Settle { record: of, by, .. } => {
                let shape = self.shape(Shape { mode: 0, running, sets });
                let epoch = of.as_ref().map_or(0, |of| of.epoch);
                self.settlements.push([record as u64, shape, epoch]);
                let number = by.number() as i64;
                self.settlements.push_signed([if by.leaves_mark() { -number } else { number }]);
            }
            Op::Reserve { how, .. } => {
                let shape = self.shape(Shape { mode: *how as u64, running, sets });
                self.reservations.push([record as u64, shape]);
            }
        }
        for i in 0..running {
            let place = Place::of(op, at(i));
            let zset = self.zset(&place);
            match op {
                Op::Settle { .. } => self.settlements.push([zset]),
                Op::Reserve { meters, .. } => {
                    let rule = self.rule(&place) as u64;
                    self.reservations.push([zset, rule, meters[at(i)].cost]);
                }
            }
        }
        let mut from = running;
        for end in ends {
            let string = self.string(&Place::of(op, at(from)));
            let numbers = self.numbers(op);
            numbers.push([string]);
            for i in from..end {
                match op {
                    Op::Settle { entries, .. } => {
                        let entry = &entries[at(i)];
                        numbers.push([entry.window, entry.reserved, entry.actual]);
                    }
                    Op::Reserve { meters, .. } => numbers.push([meters[at(i)].cost]),
                }
            }
            from = end;
        }
    }

    fn numbers(&mut self, op: &Op) -> &mut Doubles {
        match op {
            Op::Settle { .. } => &mut self.settlements,
            Op::Reserve { .. } => &mut self.reservations,
        }
    }

    fn string(&mut self, place: &Place<'a>) -> u64 {
        let (tag, rest) = place.string();
        let (keys, strings) = (self.keys, &mut self.strings);
        *self.string_of.entry((tag, rest)).or_insert_with(|| {
            strings.push(keys.counters(tag, rest));
            strings.len()
        }) as u64
    }

    fn zset(&mut self, place: &Place<'a>) -> u64 {
        let (keys, zsets) = (self.keys, &mut self.zsets);
        *self.zset_of.entry((place.bucket, place.name)).or_insert_with(|| {
            zsets.push(keys.running(place.bucket, place.name));
            zsets.len()
        }) as u64
    }

    fn rule(&mut self, place: &Place<'a>) -> usize {
        let same = |(rule, flags): &(&CounterRule, u64)| *flags == place.flags && *rule == place.rule;
        number_of(&mut self.rules, same, || (place.rule, place.flags))
    }

    fn set(&mut self, places: impl Iterator<Item = Place<'a>>) -> usize {
        let mut set = Vec::with_capacity(4);
        for place in places {
            let name = number_of(&mut self.names, |known| is_same(known, place.name), || place.name);
            set.push((name, self.rule(&place)));
        }
        let known = self.sets.iter().position(|known| *known == set);
        1 + known.unwrap_or_else(|| {
            self.sets.push(set);
            self.sets.len() - 1
        })
    }

    fn shape(&mut self, shape: Shape) -> u64 {
        let known = self.shapes.iter().position(|known| *known == shape);
        let index = known.unwrap_or_else(|| {
            self.shapes.push(shape);
            self.shapes.len() - 1
        });
        index as u64 + 1
    }

    fn arguments(&self, records: &[(u64, Vec<String>)], call: &mut Call) {
        let (mut rules, mut sets, mut shapes) = (Doubles::default(), Doubles::default(), Doubles::default());
        for (rule, flags) in &self.rules {
            let (kind, numbers) = rule_numbers(rule);
            rules.push([kind, *flags]);
            rules.push_signed(numbers);
        }
        for set in &self.sets {
            sets.push([set.len() as u64]);
            set.iter().for_each(|(name, rule)| sets.push([*name as u64, *rule as u64]));
        }
        for Shape { mode, running, sets } in &self.shapes {
            shapes.push([*mode, *running as u64, sets.len() as u64]);
            sets.iter().for_each(|set| shapes.push([*set as u64]));
        }
        let mut head = Doubles::default();
        head.push([self.strings.len() as u64, self.names.len() as u64, records.len() as u64]);
        head.push([&rules, &sets, &shapes, &self.settlements].map(Doubles::len));
        records.iter().for_each(|(_, ids)| head.push([ids.len() as u64]));
        call.joined(
            [&head, &rules, &sets, &shapes, &self.settlements, &self.reservations].map(|part| &part.0[..]),
        );
        for name in &self.names {
            call.arg(name);
        }
        for id in records.iter().flat_map(|(_, ids)| ids) {
            call.arg(id);
        }
    }
}

/// Returns the number, from 1, of the equal item in a list. Adds the item if it is missing.
fn number_of<T>(list: &mut Vec<T>, is_same: impl FnMut(&T) -> bool, new: impl FnOnce() -> T) -> usize {
    1 + list.iter().position(is_same).unwrap_or_else(|| {
        list.push(new());
        list.len() - 1
    })
}

/// Returns the kind and the numbers of a rule, as its algorithm's file in lua/fragments expects them.
pub(super) fn rule_numbers(rule: &CounterRule) -> (u64, [i64; 5]) {
    let or_none = |default: Option<u64>| default.map_or(-1, |n| n as i64);
    let windows = |amount: i64, window: Window| match window {
        Window::Length(length) => [amount, length as i64, 0, 0, 0],
        Window::Edges([a, b, c, d]) => [amount, a as i64, b as i64, c as i64, d as i64],
    };
    match *rule {
        CounterRule::Fixed { amount, window } => (1, windows(amount as i64, window)),
        CounterRule::Sliding { amount, period_ms } => (2, [amount as i64, period_ms as i64, 0, 0, 0]),
        CounterRule::TokenBucket { burst, amount, period_ms } => {
            (3, [burst as i64, amount as i64, period_ms as i64, 0, 0])
        }
        CounterRule::Running { amount, ttl_ms } => (4, [amount as i64, ttl_ms as i64, 0, 0, 0]),
        CounterRule::Prepaid { default } => (5, [or_none(default), 0, 0, 0, 0]),
        CounterRule::Budget { default, window } => (6, windows(or_none(default), window)),
    }
}

/// Compares texts that are mostly the same allocation.
pub(super) fn is_same(a: &str, b: &str) -> bool {
    std::ptr::eq(a, b) || a == b
}

/// Packs numbers as little-endian doubles, which a script reads eight times as fast as MessagePack.
#[derive(Default)]
pub(super) struct Doubles(pub(super) Vec<u8>);

impl Doubles {
    /// Returns the number of numbers.
    fn len(&self) -> u64 {
        (self.0.len() / size_of::<f64>()) as u64
    }

    pub(super) fn push<const N: usize>(&mut self, numbers: [u64; N]) {
        for number in numbers {
            self.0.extend_from_slice(&(number as f64).to_le_bytes());
        }
    }

    pub(super) fn push_signed<const N: usize>(&mut self, numbers: [i64; N]) {
        for number in numbers {
            self.0.extend_from_slice(&(number as f64).to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use evenkeel_domain::limit::{Meter, OnStoreFailure};

    use super::{super::counter_operation::How, *};

    #[test]
    fn running_requests_come_first_and_counters_of_one_string_together() {
        let meter = |rest: &str, rule| Meter {
            bucket: Arc::new(Bucket { tag: "consumer=a".into(), rest: rest.into() }),
            name: "l".into(),
            rule,
            cost: 1,
            provisional: true,
            shadow: false,
            on_store_failure: OnStoreFailure::Local,
        };
        let sliding = CounterRule::Sliding { amount: 1, period_ms: 1 };
        let order_of = |meters: Vec<Meter>| {
            let answer = tokio::sync::oneshot::channel().0;
            order(&Op::Reserve { id: None, meters, how: How::Make, answer, span: None })
        };
        let (quota, running) =
            (CounterRule::Prepaid { default: None }, CounterRule::Running { amount: 1, ttl_ms: 1 });
        assert!(order_of(vec![]).is_empty());
        assert!(order_of(vec![meter("", sliding), meter("", quota)]).is_empty());
        let mixed = [
            meter("m", sliding),
            meter("", sliding),
            meter("", running),
            meter("m", sliding),
            meter("m", quota),
        ];
        assert_eq!(order_of(mixed.to_vec()), [2, 0, 3, 1, 4]);
    }
}
