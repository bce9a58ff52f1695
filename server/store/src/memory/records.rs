//! Records of quotas in this process's memory. The balances themselves are among the counters.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use async_trait::async_trait;
use evenkeel_domain::{
    StoreError,
    limit::{AMOUNT_MAX, CounterRule},
};
use parking_lot::Mutex;

use super::{
    MemoryCounters,
    cell::Cell,
    counters::{Place, State},
};
use crate::records::{Account, Action, CHANGES_MAX, Change, Edit, Edited, Found, Range, Record, RecordStore};

/// Maximum number of accounts with a history. Beyond it, the history with the oldest last change is dropped.
const HISTORIES_MAX: usize = 10_000;

pub struct MemoryRecords {
    counters: Arc<MemoryCounters>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// Ids and changes of each account, newest first.
    changes: HashMap<Place, VecDeque<(String, Change)>>,
    /// The consumers that have a record, by quota.
    index: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
}

impl MemoryRecords {
    #[must_use]
    pub fn new(counters: Arc<MemoryCounters>) -> Self {
        Self { counters, kept: Mutex::default() }
    }

    /// Locks the counters before the records. Every caller that takes both locks uses this order.
    fn with<T>(&self, f: impl FnOnce(&mut State, &mut Kept, u64) -> T) -> T {
        self.counters.with(|state, now| f(state, &mut self.kept.lock(), now))
    }
}

fn place(account: &Account) -> Place {
    (Arc::clone(&account.bucket), Arc::clone(&account.quota))
}

fn read(state: &State, place: &Place, rule: &CounterRule, now: u64) -> Record {
    let stored = state.cells.get(place).map(|stored| &stored.cell).filter(|cell| !cell.is_forgotten(now));
    let recorded = matches!((stored, rule), (Some(Cell::Prepaid { .. }), CounterRule::Prepaid { .. }));
    match (Cell::at(stored, rule, now), rule) {
        (Some(Cell::Prepaid { balance, used, overrun, reserved, .. }), _) => {
            let reserved = reserved[0] + reserved[1];
            Record { recorded, balance, reserved, used, overrun, ..Record::default() }
        }
        (Some(Cell::Budget { used, reserved, amount, .. }), _) => {
            Record::of_budget(rule, amount, used, reserved, now)
        }
        _ => Record::default(),
    }
}

/// Returns the number that an administrator sets: the amount of a budget, or the balance of a prepaid quota.
fn level(record: &Record, rule: &CounterRule) -> u64 {
    if matches!(rule, CounterRule::Budget { .. }) { record.amount } else { record.balance }
}

/// Sets the amount or balance of a record. `None` deletes it.
fn write(state: &mut State, place: Place, rule: &CounterRule, level: Option<u64>, now: u64) {
    let stored = state.cells.get(&place).map(|stored| &stored.cell);
    match (rule, level) {
        (CounterRule::Budget { .. }, _) => {
            if let Some(Cell::Budget { start, used, reserved, .. }) = Cell::at(stored, rule, now) {
                let cell = Cell::Budget { start, used, reserved, amount: level };
                state.put(place, cell, rule, now);
            }
        }
        (_, None) => drop(state.cells.remove(&place)),
        (_, Some(level)) => {
            let some = CounterRule::Prepaid { default: Some(0) };
            if let Some(Cell::Prepaid { used, overrun, day, reserved, .. }) = Cell::at(stored, &some, now) {
                let cell = Cell::Prepaid { balance: level, is_set: true, used, overrun, day, reserved };
                state.put(place, cell, rule, now);
            }
        }
    }
}

#[async_trait]
impl RecordStore for MemoryRecords {
    async fn quota(&self, account: &Account) -> Result<Record, StoreError> {
        Ok(self.with(|state, kept, now| {
            let record = read(state, &place(account), &account.rule, now);
            if record.recorded {
                kept.index(account);
            }
            record
        }))
    }

    async fn edit_quota(&self, account: &Account, edit: &Edit) -> Result<Option<Edited>, StoreError> {
        Ok(self.with(|state, kept, now| {
            let (place, rule) = (place(account), &account.rule);
            let record = read(state, &place, rule, now);
            let before = level(&record, rule);
            let repeated =
                kept.changes.get(&place).is_some_and(|all| all.iter().any(|(id, _)| *id == edit.id));
            if repeated {
                return Some(Edited { applied: false, before, after: before, record });
            }
            let new = match edit.action {
                Action::Set(amount) => Some(amount.min(AMOUNT_MAX)),
                Action::Adjust(delta) => Some(before.saturating_add_signed(delta).min(AMOUNT_MAX)),
                Action::Delete if record.recorded => None,
                Action::Delete => return None,
            };
            write(state, place.clone(), rule, new, now);
            let record = read(state, &place, rule, now);
            if record.recorded {
                kept.index(account);
            } else {
                kept.forget(&account.quota, &account.consumer);
            }
            let after = level(&record, rule);
            let (who, note) = (edit.who.clone(), edit.note.clone());
            let what = edit.action.name().to_owned();
            kept.make_room(&place);
            let changes = kept.changes.entry(place).or_default();
            changes.push_front((edit.id.clone(), Change { at_ms: now, who, what, before, after, note }));
            changes.truncate(CHANGES_MAX);
            Some(Edited { applied: true, before, after, record })
        }))
    }

    async fn quota_changes(&self, account: &Account) -> Result<Vec<Change>, StoreError> {
        let kept = self.kept.lock();
        let changes = kept.changes.get(&place(account)).into_iter().flatten();
        Ok(changes.map(|(_, change)| change.clone()).collect())
    }

    async fn quotas(
        &self,
        quota: &Arc<str>,
        rule: &CounterRule,
        range: Range<'_>,
    ) -> Result<Found, StoreError> {
        Ok(self.with(|state, kept, now| {
            let Some(index) = kept.index.get_mut(quota) else { return Found::default() };
            let from: Arc<str> = range.after.into();
            let (mut list, mut gone) = (Vec::new(), Vec::new());
            for consumer in index.range(from..) {
                if list.len() == range.most {
                    break;
                }
                if **consumer == *range.after || !consumer.contains(range.search) {
                    continue;
                }
                let Some(account) = Account::new(consumer, Arc::clone(quota), *rule) else { continue };
                let record = read(state, &place(&account), rule, now);
                if record.recorded {
                    list.push((Arc::clone(consumer), record));
                } else {
                    gone.push(Arc::clone(consumer));
                }
            }
            for consumer in gone {
                index.remove(&consumer);
            }
            Found { records: list, stopped_at: None }
        }))
    }
}

impl Kept {
    fn make_room(&mut self, place: &Place) {
        if self.changes.len() < HISTORIES_MAX || self.changes.contains_key(place) {
            return;
        }
        let changed_at =
            |changes: &VecDeque<(String, Change)>| changes.front().map(|(_, change)| change.at_ms);
        let oldest = self.changes.iter().min_by_key(|(_, changes)| changed_at(changes));
        if let Some(oldest) = oldest.map(|(place, _)| place.clone()) {
            self.changes.remove(&oldest);
        }
    }

    fn index(&mut self, account: &Account) {
        let of_quota = self.index.entry(Arc::clone(&account.quota)).or_default();
        of_quota.insert(Arc::clone(&account.consumer));
    }

    fn forget(&mut self, quota: &str, consumer: &str) {
        if let Some(of_quota) = self.index.get_mut(quota) {
            of_quota.remove(consumer);
        }
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_domain::{HolderId, LeaseId, clock::DAY_MS, limit::Meter, settings::OnStoreFailure};

    use super::*;
    use crate::{
        counters::{Counters as _, ReservationId, Reserve},
        memory::cell::KEPT_DAYS,
    };

    #[tokio::test]
    async fn what_is_left_of_a_default_expires_and_a_set_balance_does_not() {
        let counters = Arc::<MemoryCounters>::default();
        let records = MemoryRecords::new(Arc::clone(&counters));
        let rule = CounterRule::Prepaid { default: Some(10) };
        let account = |name: &str| Account::new(name, "trial".into(), rule).unwrap();
        let start = 20_833 * DAY_MS;
        counters.set_clock(start);
        for (lease, name) in [(1, "left"), (2, "set")] {
            let Account { bucket, quota, .. } = account(name);
            let on_store_failure = OnStoreFailure::Local;
            let meter = Meter {
                bucket,
                name: quota,
                rule,
                cost: 3,
                provisional: false,
                shadow: false,
                on_store_failure,
            };
            let id =
                ReservationId { holder: HolderId::new("h").unwrap(), lease: LeaseId::new(lease).unwrap() };
            let verdict = counters.reserve(Reserve { id: Some(id), meters: vec![meter] }).await.unwrap();
            assert!(verdict.admitted);
        }
        let edit = Edit { action: Action::Set(5), who: "ops".into(), note: String::new(), id: "1".into() };
        records.edit_quota(&account("set"), &edit).await.unwrap();
        for (after, left) in [(KEPT_DAYS * DAY_MS - 1, 7), (KEPT_DAYS * DAY_MS, 10)] {
            counters.set_clock(start + after);
            assert_eq!(records.quota(&account("left")).await.unwrap().balance, left);
            assert_eq!(records.quota(&account("set")).await.unwrap().balance, 5);
        }
    }
}
