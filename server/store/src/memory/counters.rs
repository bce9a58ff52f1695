//! Counters in this process's memory.

use std::{
    collections::{BTreeMap, HashMap, hash_map},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use evenkeel_domain::{
    StoreError,
    clock::{DAY_MS, unix_ms},
    limit::{Bucket, CounterRule, Meter},
};
use evenkeel_telemetry::traces::StoreSpan;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::cell::Cell;
use crate::counters::{
    APART_DAYS, CounterState, Counters, Entry, RecordRef, Renewal, ReservationId, Reserve, SettleResult,
    Settlement, Verdict,
};

/// From this number of counters on, [`State::put`] deletes expired counters.
const PURGE_FROM: usize = 1024;

/// Counters of limits and quotas. Uses tokio's time, so that tests can pause the clock.
pub struct MemoryCounters {
    started: Instant,
    started_unix_ms: u64,
    /// The time that a test has set, or 0.
    set_ms: AtomicU64,
    state: Mutex<State>,
}

/// Identifies a counter: its key and the name of its limit or quota.
pub(super) type Place = (Arc<Bucket>, Arc<str>);

#[derive(Default)]
pub(super) struct State {
    pub(super) cells: HashMap<Place, Stored>,
    records: BTreeMap<u64, DayRecords>,
    purge_at: usize,
}

/// Records of the reservations of one day.
struct DayRecords {
    /// When the first record of the day was made, in ms.
    epoch: u64,
    ids: HashMap<ReservationId, Record>,
}

#[derive(Clone, Debug)]
enum Record {
    /// A reservation that is not settled yet, with the window and the taken amount of each counter.
    Taken {
        amounts: Vec<(u64, u64)>,
        /// Whether the reservation was made more than once, so that whoever made it first must not give it back.
        is_shared: bool,
    },
    /// The mark of the settler with this number.
    Settled(u64),
}

impl Record {
    fn taken(self) -> Option<Vec<(u64, u64)>> {
        match self {
            Self::Taken { amounts, .. } => Some(amounts),
            Self::Settled(_) => None,
        }
    }
}

/// A counter, and the time when it expires. `None`: never.
pub(super) struct Stored {
    pub(super) cell: Cell,
    pub(super) until_ms: Option<u64>,
}

impl Default for MemoryCounters {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            started_unix_ms: unix_ms(),
            set_ms: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }
}

impl MemoryCounters {
    /// Stops the clock at this time, in ms since the Unix epoch. For tests on virtual time.
    pub fn set_clock(&self, now_ms: u64) {
        self.set_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Returns the time, in ms since the Unix epoch.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        match self.set_ms.load(Ordering::Relaxed) {
            0 => self.started_unix_ms + self.started.elapsed().as_millis() as u64,
            set => set,
        }
    }

    /// Returns the number of counters. For tests.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state.lock().cells.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Deletes everything, like a store that restarted empty.
    pub fn clear(&self) {
        *self.state.lock() = State::default();
    }

    pub(super) fn with<T>(&self, f: impl FnOnce(&mut State, u64) -> T) -> T {
        let now = self.now_ms();
        f(&mut self.state.lock(), now)
    }
}

/// One evaluated meter of a reservation: its counter as of now, and the amount that the request can take.
struct Judged {
    /// `None` if the quota has no usable counter; see [`Cell::at`].
    cell: Option<Cell>,
    /// `None` if the cost does not fit.
    taken: Option<u64>,
}

impl State {
    fn cell(&self, bucket: &Arc<Bucket>, name: &Arc<str>, rule: &CounterRule, now: u64) -> Option<Cell> {
        let place = (Arc::clone(bucket), Arc::clone(name));
        Cell::at(self.cells.get(&place).map(|stored| &stored.cell), rule, now)
    }

    pub(super) fn put(&mut self, place: Place, cell: Cell, rule: &CounterRule, now: u64) {
        let until_ms = cell.lives_until(rule, now);
        self.cells.insert(place, Stored { cell, until_ms });
        if self.cells.len() >= self.purge_at.max(PURGE_FROM) {
            self.cells.retain(|_, stored| stored.until_ms.is_none_or(|at| at > now));
            self.purge_at = self.cells.len() * 2;
        }
    }

    /// Reserves, unless the call only peeks.
    fn reserve(&mut self, reserve: &Reserve, look: bool, now: u64) -> Verdict {
        let id = reserve.id.as_ref();
        let today = self.records.get(&(now / DAY_MS));
        let recorded = id.zip(today).and_then(|(id, records)| records.ids.get(id).cloned());
        let repeated = recorded.is_some();
        let before = recorded.and_then(Record::taken).filter(|before| before.len() == reserve.meters.len());
        let judge = |(i, meter): (usize, &Meter)| {
            let cell = self.cell(&meter.bucket, &meter.name, &meter.rule, now);
            let room = cell.as_ref().and_then(|cell| cell.room(&meter.rule, meter.cost));
            let at_most = match &cell {
                Some(cell) => cell.in_shadow(meter.cost),
                None => 0,
            };
            let taken = match &before {
                Some(before) => Some(before[i].1),
                None => room.or((repeated || meter.shadow).then_some(at_most)),
            };
            Judged { cell, taken }
        };
        let judged: Vec<Judged> = reserve.meters.iter().enumerate().map(judge).collect();
        let admitted = judged.iter().all(|judged| judged.taken.is_some());
        let states = reserve.meters.iter().zip(judged).enumerate();
        let states: Vec<CounterState> = states
            .map(|(i, (meter, judged))| match judged {
                Judged { cell, taken: Some(taken) } if admitted => {
                    let state = self.take(meter, cell, taken, id, look || repeated, now);
                    let window = before.as_ref().map_or(state.window, |before| before[i].0);
                    CounterState { window, ..state }
                }
                Judged { cell, taken } => refused(meter, cell.as_ref(), taken.is_none(), now),
            })
            .collect();
        let mut records = Vec::new();
        if let (Some(id), true, false) = (id, admitted, look) {
            let day = now / DAY_MS;
            self.forget_old_records(now);
            let of_day = self.records.entry(day).or_insert_with(|| DayRecords::new(now));
            let taken = states.iter().map(|state| (state.window, state.taken)).collect();
            match of_day.ids.entry(id.clone()) {
                hash_map::Entry::Vacant(place) => {
                    place.insert(Record::Taken { amounts: taken, is_shared: false });
                }
                hash_map::Entry::Occupied(mut place) => {
                    if let Record::Taken { amounts, is_shared } = place.get_mut() {
                        *is_shared |= amounts.len() == taken.len();
                    }
                }
            }
            records.push(RecordRef { tag: Arc::default(), day, epoch: of_day.epoch });
        }
        Verdict { admitted, states, records, ..Verdict::default() }
    }

    fn take(
        &mut self,
        meter: &Meter,
        cell: Option<Cell>,
        taken: u64,
        id: Option<&ReservationId>,
        look: bool,
        now: u64,
    ) -> CounterState {
        let Some(mut cell) = cell else { return CounterState { taken, ..CounterState::default() } };
        if !look {
            let hold = match meter.rule {
                CounterRule::Running { ttl_ms, .. } => id.map(|id| (id, now + ttl_ms)),
                _ => None,
            };
            cell.take(taken, meter.provisional, hold);
            self.put((Arc::clone(&meter.bucket), Arc::clone(&meter.name)), cell.clone(), &meter.rule, now);
        }
        CounterState { taken, ..cell.state(&meter.rule, now) }
    }

    fn forget_old_records(&mut self, now: u64) {
        let day = now / DAY_MS;
        self.records.retain(|recorded, _| recorded % APART_DAYS + 2 > day);
    }

    fn settle(&mut self, settlement: &Settlement, now: u64) -> SettleResult {
        let (mut result, mut lost) = (SettleResult::First, false);
        let (id, by) = (&settlement.id, settlement.by);
        self.forget_old_records(now);
        for record in &settlement.records {
            let of_day = self.records.entry(record.day).or_insert_with(|| DayRecords::new(now));
            match of_day.ids.get(id) {
                Some(Record::Taken { is_shared: true, .. }) if by.rolls_back() => {
                    return SettleResult::Before { by: None };
                }
                Some(Record::Taken { is_shared, .. }) if by.leaves_mark() || *is_shared => {
                    of_day.ids.insert(id.clone(), Record::Settled(by.number()));
                }
                Some(Record::Taken { .. }) => drop(of_day.ids.remove(id)),
                Some(Record::Settled(number)) => {
                    result = SettleResult::Before { by: Some(*number).filter(|number| *number > 0) };
                }
                None if of_day.epoch == record.epoch => result = SettleResult::Before { by: None },
                None => {
                    of_day.ids.insert(id.clone(), Record::Settled(by.number()));
                    lost = true;
                }
            }
        }
        let first = result.is_first();
        for entry in &settlement.entries {
            // A concurrent KeepAlive may have restored the in-flight request, so a repeated settlement removes it
            // again.
            if !(first || matches!(entry.rule, CounterRule::Running { .. })) {
                continue;
            }
            let Some(mut cell) = self.cell(&entry.bucket, &entry.name, &entry.rule, now) else { continue };
            let reserved = if lost { 0 } else { entry.reserved };
            cell.settle(entry, reserved, &settlement.id, now);
            self.put((Arc::clone(&entry.bucket), Arc::clone(&entry.name)), cell, &entry.rule, now);
        }
        result
    }

    fn give_back(&mut self, reserve: &Reserve, now: u64) {
        let Some(id) = &reserve.id else { return };
        let Some(of_day) = self.records.get_mut(&(now / DAY_MS)) else { return };
        let Some(Record::Taken { amounts, is_shared: false }) = of_day.ids.get(id) else { return };
        if amounts.len() != reserve.meters.len() {
            return;
        }
        let taken = of_day.ids.remove(id).and_then(Record::taken).unwrap_or_default();
        for (meter, (window, taken)) in reserve.meters.iter().zip(taken) {
            if matches!(meter.rule, CounterRule::Running { .. }) {
                continue;
            }
            let Some(mut cell) = self.cell(&meter.bucket, &meter.name, &meter.rule, now) else { continue };
            let entry = Entry::settling(meter, &CounterState { window, taken, ..CounterState::default() }, 0);
            cell.settle(&entry, taken, id, now);
            self.put((Arc::clone(&meter.bucket), Arc::clone(&meter.name)), cell, &meter.rule, now);
        }
    }

    fn renew(&mut self, renewal: &Renewal, now: u64) {
        let rule = CounterRule::Running { amount: 0, ttl_ms: renewal.ttl_ms };
        if let Some(mut cell) = self.cell(&renewal.bucket, &renewal.name, &rule, now) {
            // Later deadlines are from before the clock was set back.
            cell.bring_forward(now + renewal.ttl_ms);
            cell.take(1, true, Some((&renewal.id, now + renewal.ttl_ms)));
            self.put((Arc::clone(&renewal.bucket), Arc::clone(&renewal.name)), cell, &rule, now);
        }
    }
}

impl DayRecords {
    fn new(now: u64) -> Self {
        Self { epoch: now, ids: HashMap::new() }
    }
}

/// Starts the span of a call on the request path.
fn span(counters: usize) -> Option<Box<StoreSpan>> {
    let mut span = StoreSpan::memory("evenkeel.store count")?;
    span.set_number("evenkeel.store.counters", counters);
    Some(span)
}

fn refused(meter: &Meter, cell: Option<&Cell>, over: bool, now: u64) -> CounterState {
    let Some(cell) = cell else { return CounterState { over, ..CounterState::default() } };
    let (retry_ms, final_ms) = cell.waits(&meter.rule, meter.cost, meter.provisional, now);
    CounterState { over, retry_ms, final_ms, window: 0, ..cell.state(&meter.rule, now) }
}

#[async_trait]
impl Counters for MemoryCounters {
    async fn reserve(&self, reserve: Reserve) -> Result<Verdict, StoreError> {
        let _span = span(reserve.meters.len());
        Ok(self.with(|state, now| state.reserve(&reserve, false, now)))
    }

    async fn give_back(&self, reserve: Reserve) -> Result<(), StoreError> {
        self.with(|state, now| state.give_back(&reserve, now));
        Ok(())
    }

    async fn peek(&self, meters: Vec<Meter>) -> Result<Verdict, StoreError> {
        Ok(self.with(|state, now| state.reserve(&Reserve { id: None, meters }, true, now)))
    }

    async fn settle(&self, settlement: Settlement) -> Result<SettleResult, StoreError> {
        let _span = span(settlement.entries.len());
        Ok(self.with(|state, now| state.settle(&settlement, now)))
    }

    async fn renew(&self, renewals: Vec<Renewal>) -> Result<(), StoreError> {
        self.with(|state, now| renewals.iter().for_each(|renewal| state.renew(renewal, now)));
        Ok(())
    }
}
