//! Encodes a batch as a call of the script `windows` or `one_window` if that script can process the batch.
//! lua/windows.lua and lua/one_window.lua describe the arguments.

use std::sync::atomic::{AtomicU32, Ordering};

use evenkeel_domain::limit::{Bucket, CounterRule, Meter};
use rustc_hash::FxHashMap;

use super::{
    call::Call,
    counter_operation::{How, Op, Place},
    encode::{Doubles, is_same, rule_numbers},
    script::{ONE_WINDOW, WINDOWS},
};

/// Number of batches that go to `count` after `windows` found a string that has other counters too. While a key has
/// other counters, every call of `windows` for that key fails.
const SKIPPED: u32 = 16;

/// Decides whether batches go to `windows`.
#[derive(Default)]
pub(super) struct Windows {
    skip: AtomicU32,
}

impl Windows {
    /// Makes the next batches go to `count`.
    pub(super) fn pause(&self) {
        self.skip.store(SKIPPED, Ordering::Relaxed);
    }

    /// Returns the call if one of the scripts can process this batch: reservations without records, under fixed
    /// windows, with one counter and one kind of window per key.
    pub(super) fn call(&self, work: &Place, ops: &[Op]) -> Option<Call> {
        let skip = self.skip.load(Ordering::Relaxed);
        if skip > 0 {
            self.skip.store(skip - 1, Ordering::Relaxed);
            return None;
        }
        if let [Op::Reserve { id: None, meters, how: how @ (How::Make | How::Look), .. }] = ops
            && let [meter] = &meters[..]
        {
            return one(work, meter, *how);
        }
        let mut limits: Vec<&Meter> = Vec::with_capacity(4);
        let mut keys: Vec<String> = Vec::with_capacity(ops.len());
        let mut key_of: FxHashMap<&Bucket, (usize, &Meter)> =
            FxHashMap::with_capacity_and_hasher(ops.len(), Default::default());
        let mut asked = Doubles::default();
        for op in ops {
            let Op::Reserve { id: None, meters, how: how @ (How::Make | How::Look), .. } = op else {
                return None;
            };
            asked.push([u64::from(*how == How::Look), meters.len() as u64]);
            for meter in meters {
                let CounterRule::Fixed { window, .. } = meter.rule else { return None };
                let (key, other) = key_of.entry(&meter.bucket).or_insert_with(|| {
                    keys.push(work.keys.counters(&meter.bucket.tag, &meter.bucket.rest));
                    (keys.len(), meter)
                });
                let same_window =
                    matches!(other.rule, CounterRule::Fixed { window: other, .. } if other == window);
                if meter.provisional || !same_window || !is_same(&meter.name, &other.name) {
                    return None;
                }
                let same = |limit: &&Meter| {
                    limit.rule == meter.rule
                        && limit.shadow == meter.shadow
                        && is_same(&limit.name, &meter.name)
                };
                let limit = limits.iter().position(same).unwrap_or_else(|| {
                    limits.push(meter);
                    limits.len() - 1
                });
                asked.push([*key as u64, limit as u64 + 1, meter.cost]);
            }
        }
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let mut call = Call::new(&WINDOWS, &keys);
        work.shared.clock.tell(&mut call);
        let mut numbers = Doubles::default();
        for limit in &limits {
            numbers.push([u64::from(limit.shadow)]);
            numbers.push_signed(rule_numbers(&limit.rule).1);
        }
        call.bytes(&numbers.0).bytes(&asked.0);
        for limit in limits {
            call.bytes(&layout_text(&limit.name));
        }
        Some(call)
    }
}

/// Returns the call of `one_window` for a reservation of one counter, if the script can process it.
fn one(work: &Place, meter: &Meter, how: How) -> Option<Call> {
    if meter.provisional || !matches!(meter.rule, CounterRule::Fixed { .. }) {
        return None;
    }
    let key = work.keys.counters(&meter.bucket.tag, &meter.bucket.rest);
    let mut call = Call::new(&ONE_WINDOW, &[&key]);
    work.shared.clock.tell(&mut call);
    let mut numbers = Doubles::default();
    numbers.push([u64::from(how == How::Look), meter.cost, u64::from(meter.shadow)]);
    numbers.push_signed(rule_numbers(&meter.rule).1);
    call.bytes(&numbers.0).bytes(&layout_text(&meter.name));
    Some(call)
}

/// Returns the text at the start of a string that contains only this fixed window. lua/fragments/codec.lua describes
/// the text.
fn layout_text(name: &str) -> Vec<u8> {
    const FIXED_WINDOW: u8 = 1;
    const DOUBLES: u8 = 3;
    let mut text = vec![FIXED_WINDOW, DOUBLES];
    text.extend_from_slice(&(name.len() as u16).to_le_bytes());
    text.extend_from_slice(name.as_bytes());
    text
}
