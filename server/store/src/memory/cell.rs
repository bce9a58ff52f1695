//! One counter: the reference for the algorithms in `lua/fragments`. Those do the same arithmetic in the same order.

use std::collections::BTreeMap;

use evenkeel_domain::{
    clock::DAY_MS,
    limit::{
        CounterRule,
        rule::{SLOTS, slot_ms},
    },
};

use crate::counters::{CounterState, Entry, ReservationId};

/// Number of days for which what is left of a default is remembered after its last use, and the same if nothing was
/// charged. Equals lua/fragments/prepaid.lua.
pub(super) const KEPT_DAYS: u64 = 400;
const KEPT_DAYS_UNCHARGED: u64 = 2;

/// The state of a counter at one time.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    Fixed {
        start: u64,
        used: u64,
        reserved: u64,
    },
    Sliding {
        slot: u64,
        /// Counts of `slot` and the slots before it, newest first.
        counts: [u64; SLOTS + 1],
    },
    TokenBucket {
        at_ms: u64,
        /// Used tokens times the period. The product is a whole number, so that rounding loses nothing.
        debt: f64,
        period_ms: u64,
    },
    Running(BTreeMap<ReservationId, u64>),
    Prepaid {
        balance: u64,
        /// Whether an administrator has set the balance. Otherwise it is what is left of a default.
        is_set: bool,
        used: u64,
        overrun: u64,
        day: u64,
        /// Amounts reserved on `day` and on the day before.
        reserved: [u64; 2],
    },
    Budget {
        start: u64,
        used: u64,
        reserved: u64,
        amount: Option<u64>,
    },
}

impl Cell {
    /// Makes no deadline of a running request later than this.
    pub(super) fn bring_forward(&mut self, latest_ms: u64) {
        if let Self::Running(held) = self {
            held.values_mut().for_each(|deadline_ms| *deadline_ms = latest_ms.min(*deadline_ms));
        }
    }

    /// Returns the counter as of now: `before` advanced in time, or a new counter. Returns `None` if a quota has
    /// neither a record nor a default, or if its record is of another kind.
    pub(super) fn at(before: Option<&Self>, rule: &CounterRule, now: u64) -> Option<Self> {
        let before = before.filter(|before| !before.is_forgotten(now));
        Some(match (*rule, before) {
            (CounterRule::Fixed { window, .. }, before) => {
                let (start, end) = window.around(now);
                match before {
                    // After the clock was set back a little, the counter may be of the next window. Keep it.
                    Some(Self::Fixed { start: s, .. }) if *s == start || *s == end => before.cloned()?,
                    _ => Self::Fixed { start, used: 0, reserved: 0 },
                }
            }
            (CounterRule::Sliding { period_ms, .. }, before) => {
                let slot = now / slot_ms(period_ms);
                let mut counts = [0; SLOTS + 1];
                // After the clock was set back a little, the newest slot is ahead of the clock. Keep it.
                if let Some(cell @ Self::Sliding { slot: s, .. }) = before
                    && *s > slot
                    && *s <= slot + SLOTS as u64
                {
                    return Some(cell.clone());
                }
                if let Some(Self::Sliding { slot: s, counts: old }) = before
                    && let Some(by) = slot.checked_sub(*s).filter(|by| *by <= SLOTS as u64)
                {
                    counts[by as usize..].copy_from_slice(&old[..SLOTS + 1 - by as usize]);
                }
                Self::Sliding { slot, counts }
            }
            (
                CounterRule::TokenBucket { amount, period_ms, .. },
                Some(Self::TokenBucket { at_ms, debt, period_ms: p }),
            ) => {
                let debt = if *p == period_ms { *debt } else { debt / *p as f64 * period_ms as f64 };
                let drained = now.saturating_sub(*at_ms) as f64 * amount as f64;
                Self::TokenBucket { at_ms: now.max(*at_ms), debt: (debt - drained).max(0.0), period_ms }
            }
            (CounterRule::TokenBucket { period_ms, .. }, _) => {
                Self::TokenBucket { at_ms: now, debt: 0.0, period_ms }
            }
            (CounterRule::Running { .. }, Some(Self::Running(held))) => Self::Running(
                held.iter().filter(|(_, at)| **at > now).map(|(id, at)| (id.clone(), *at)).collect(),
            ),
            (CounterRule::Running { .. }, _) => Self::Running(BTreeMap::new()),
            (
                CounterRule::Prepaid { default },
                Some(Self::Prepaid { balance, is_set, used, overrun, day, reserved }),
            ) => {
                let today = now / DAY_MS;
                let reserved = match today.checked_sub(*day) {
                    Some(0) => *reserved,
                    Some(1) => [0, reserved[0]],
                    _ => [0, 0],
                };
                // Without a default, nothing is left of it.
                if !is_set {
                    default?;
                }
                let (balance, is_set, used, overrun) = (*balance, *is_set, *used, *overrun);
                Self::Prepaid { balance, is_set, used, overrun, day: today, reserved }
            }
            // A quota's record of another kind is not overwritten. The request is refused.
            (
                CounterRule::Prepaid { .. } | CounterRule::Budget { .. },
                Some(Self::Prepaid { .. } | Self::Budget { .. }),
            ) if !before.is_some_and(|before| before.is_of(rule)) => {
                return None;
            }
            (CounterRule::Prepaid { default }, _) => {
                let (balance, day) = (default?, now / DAY_MS);
                Self::Prepaid { balance, is_set: false, used: 0, overrun: 0, day, reserved: [0, 0] }
            }
            (CounterRule::Budget { window, .. }, before) => {
                let (start, end) = window.around(now);
                match before {
                    Some(Self::Budget { start: s, .. }) if *s == start || *s == end => before.cloned()?,
                    Some(Self::Budget { amount, .. }) => {
                        Self::Budget { start, used: 0, reserved: 0, amount: *amount }
                    }
                    _ => Self::Budget { start, used: 0, reserved: 0, amount: None },
                }
            }
        })
    }

    /// Returns whether the counter is what is left of a default, and was not used for long.
    pub(super) fn is_forgotten(&self, now: u64) -> bool {
        let Self::Prepaid { is_set: false, used, overrun, day, .. } = self else { return false };
        (now / DAY_MS).saturating_sub(*day) >= kept_days(*used, *overrun)
    }

    fn is_of(&self, rule: &CounterRule) -> bool {
        matches!(
            (self, rule),
            (Self::Prepaid { .. }, CounterRule::Prepaid { .. })
                | (Self::Budget { .. }, CounterRule::Budget { .. })
        )
    }

    /// Returns the amount that a request takes in shadow mode if it does not fit. A balance gives no more than it has.
    pub(super) fn in_shadow(&self, cost: u64) -> u64 {
        if let Self::Prepaid { balance, .. } = self { cost.min(*balance) } else { cost }
    }

    /// Returns the amount that a request can take. `None` if the cost does not fit.
    pub(super) fn room(&self, rule: &CounterRule, cost: u64) -> Option<u64> {
        let fits = match (self, rule) {
            (Self::Fixed { used, .. }, CounterRule::Fixed { amount, .. }) => {
                used.saturating_add(cost) <= *amount
            }
            (Self::Sliding { counts, .. }, CounterRule::Sliding { amount, .. }) => {
                counts.iter().fold(cost, |sum, n| sum.saturating_add(*n)) <= *amount
            }
            (Self::TokenBucket { debt, period_ms, .. }, CounterRule::TokenBucket { burst, .. }) => {
                debt + cost as f64 * *period_ms as f64 <= *burst as f64 * *period_ms as f64
            }

            (Self::Running(held), CounterRule::Running { amount, .. }) => held.len() as u64 + cost <= *amount,
            (Self::Prepaid { balance, reserved, .. }, _) => {
                return last_bit(*balance, cost, reserved[0] + reserved[1]);
            }
            (Self::Budget { used, reserved, amount, .. }, CounterRule::Budget { default, .. }) => {
                return last_bit(amount.or(*default)?.saturating_sub(*used), cost, *reserved);
            }
            _ => false,
        };
        fits.then_some(cost)
    }

    pub(super) fn take(&mut self, taken: u64, provisional: bool, hold: Option<(&ReservationId, u64)>) {
        let provisionally = if provisional { taken } else { 0 };
        match self {
            Self::Fixed { used, reserved, .. } | Self::Budget { used, reserved, .. } => {
                *used = used.saturating_add(taken);
                *reserved = reserved.saturating_add(provisionally);
            }
            Self::Sliding { counts, .. } => counts[0] += taken,
            Self::TokenBucket { debt, period_ms, .. } => *debt += taken as f64 * *period_ms as f64,
            Self::Running(held) => {
                if let Some((id, deadline)) = hold {
                    held.insert(id.clone(), deadline);
                }
            }
            Self::Prepaid { balance, used, reserved, .. } => {
                *balance = balance.saturating_sub(taken);
                reserved[0] += provisionally;
                *used += taken - provisionally;
            }
        }
    }

    /// Replaces `reserved` with the actual charge.
    pub(super) fn settle(&mut self, entry: &Entry, reserved: u64, id: &ReservationId, now: u64) {
        let Entry { rule, window: at, actual, provisional, .. } = entry;
        let more = (*actual as i64).saturating_sub(reserved as i64);
        let provisionally = if *provisional { reserved } else { 0 };
        match (self, rule) {
            (Self::Fixed { start, used, reserved: r }, _)
            | (Self::Budget { start, used, reserved: r, .. }, _) => {
                if start == at {
                    *used = used.saturating_add_signed(more);
                    *r = r.saturating_sub(provisionally);
                } else {
                    *used = used.saturating_add(more.max(0) as u64);
                }
            }
            (Self::Sliding { slot, counts }, _) => {
                let age = slot.checked_sub(*at).filter(|age| *age <= SLOTS as u64);
                if age.is_some() || more > 0 {
                    let i = age.unwrap_or(0) as usize;
                    counts[i] = counts[i].saturating_add_signed(more);
                }
            }
            (Self::TokenBucket { debt, .. }, CounterRule::TokenBucket { amount, period_ms, .. }) => {
                let period = *period_ms as f64;
                let mut more = more as f64 * period;
                if more < 0.0 {
                    // Other requests may have used what the bucket refilled since the reservation, so that part is not
                    // given back.
                    let refilled = (now as f64 - *at as f64) * *amount as f64;
                    more = -(-more).min((reserved as f64 * period - refilled).max(0.0));
                }
                *debt = (*debt + more).max(0.0);
            }
            (Self::TokenBucket { .. }, _) => {}
            (Self::Running(held), _) => drop(held.remove(id)),
            (Self::Prepaid { balance, used, overrun, day, reserved: r, .. }, _) => {
                if *provisional {
                    *used = used.saturating_add(*actual);
                    match day.checked_sub(*at) {
                        Some(0) => r[0] = r[0].saturating_sub(reserved),
                        Some(1) => r[1] = r[1].saturating_sub(reserved),
                        _ => {}
                    }
                } else {
                    *used = used.saturating_add_signed(more);
                }
                let paid = more.min(*balance as i64);
                *balance = balance.saturating_add_signed(-paid);
                *overrun = overrun.saturating_add((more - paid) as u64);
            }
        }
    }

    /// Returns the used amount, the amount of the limit or quota, and the window that the settlement passes back.
    pub(super) fn state(&self, rule: &CounterRule, now: u64) -> CounterState {
        let (used, amount, window) = match (self, rule) {
            (Self::Fixed { start, used, .. }, CounterRule::Fixed { amount, .. }) => (*used, *amount, *start),
            (Self::Sliding { slot, counts }, CounterRule::Sliding { amount, .. }) => {
                (counts.iter().sum(), *amount, *slot)
            }
            (Self::TokenBucket { debt, period_ms, .. }, CounterRule::TokenBucket { burst, .. }) => {
                ((debt / *period_ms as f64).ceil() as u64, *burst, now)
            }

            (Self::Running(held), CounterRule::Running { amount, .. }) => (held.len() as u64, *amount, 0),
            (Self::Prepaid { balance, used, day, reserved, .. }, _) => {
                (*balance, balance + used + reserved[0] + reserved[1], *day)
            }
            (Self::Budget { start, used, amount, .. }, CounterRule::Budget { default, .. }) => {
                (*used, amount.or(*default).unwrap_or(0), *start)
            }
            _ => (0, 0, 0),
        };
        let (reserved, reset_ms) = (self.reserved(), rule.reset_ms(used, now));
        CounterState { used, reserved, amount, window, reset_ms, ..CounterState::default() }
    }

    /// For a refusal, returns the time until the cost would fit, and the time during which no settlement can make it
    /// fit.
    pub(super) fn waits(&self, rule: &CounterRule, cost: u64, provisional: bool, now: u64) -> (u64, u64) {
        let unless_provisional = |retry: u64| (retry, if provisional { 0 } else { retry });
        match (self, rule) {
            (Self::Fixed { used, reserved, .. }, CounterRule::Fixed { amount, window }) => {
                let reset = window.around(now).1.saturating_sub(now);
                let lasting = (used + cost).saturating_sub(*reserved) > *amount;
                (if cost <= *amount { reset } else { 0 }, if lasting { reset } else { 0 })
            }
            (Self::Budget { amount, .. }, CounterRule::Budget { default, window }) => {
                let some = amount.or(*default).unwrap_or(0) > 0;
                (if some { window.around(now).1.saturating_sub(now) } else { 0 }, 0)
            }
            (Self::Sliding { slot, counts }, CounterRule::Sliding { amount, period_ms }) => {
                let mut left = counts.iter().sum::<u64>();
                for (i, count) in counts.iter().enumerate().rev().filter(|(_, count)| **count > 0) {
                    left -= count;
                    if left + cost <= *amount {
                        let free_at = (slot + SLOTS as u64 + 1 - i as u64) * slot_ms(*period_ms);
                        return unless_provisional(free_at - now);
                    }
                }
                (0, 0)
            }
            (Self::TokenBucket { debt, .. }, CounterRule::TokenBucket { burst, amount, period_ms })
                if cost <= *burst =>
            {
                let period = *period_ms as f64;
                let excess = (debt + cost as f64 * period - *burst as f64 * period).max(0.0);
                unless_provisional((excess / *amount as f64).ceil() as u64)
            }
            _ => (0, 0),
        }
    }

    /// Returns the reserved part of the used amount.
    fn reserved(&self) -> u64 {
        match self {
            Self::Fixed { reserved, .. } | Self::Budget { reserved, .. } => *reserved,
            Self::Prepaid { reserved, .. } => reserved[0] + reserved[1],
            _ => 0,
        }
    }

    /// Returns when the counter expires. `None`: never.
    pub(super) fn lives_until(&self, rule: &CounterRule, now: u64) -> Option<u64> {
        match (self, rule) {
            (_, CounterRule::Fixed { window, .. })
            | (Self::Budget { amount: None, .. }, CounterRule::Budget { window, .. }) => {
                Some(window.around(now).1)
            }
            (_, CounterRule::Sliding { period_ms, .. }) => {
                Some(now + (SLOTS as u64 + 1) * slot_ms(*period_ms))
            }
            (Self::TokenBucket { debt, .. }, CounterRule::TokenBucket { amount, .. }) => {
                Some(now + (debt / *amount as f64).ceil() as u64)
            }
            (Self::Running(held), _) => Some(held.values().copied().max().unwrap_or(now)),
            (Self::Prepaid { is_set: false, used, overrun, .. }, _) => {
                Some(now + DAY_MS * kept_days(*used, *overrun))
            }
            _ => None,
        }
    }
}

/// Returns for how many days what is left of a default is remembered.
fn kept_days(used: u64, overrun: u64) -> u64 {
    if used > 0 || overrun > 0 { KEPT_DAYS } else { KEPT_DAYS_UNCHARGED }
}

/// Lets one request at a time take the rest of a quota that has less left than the request's cost.
pub(crate) fn last_bit(left: u64, cost: u64, reserved: u64) -> Option<u64> {
    if left >= cost.max(1) { Some(cost) } else { (left > 0 && reserved == 0).then_some(left) }
}
