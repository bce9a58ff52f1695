//! Usage in this process's memory, and the reference that the Redis scripts are tested against.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use async_trait::async_trait;
use evenkeel_domain::{
    StoreError,
    usage::{Day, RowKey, SessionKey, SessionSum, Turn, Usage},
};
use parking_lot::Mutex;

use crate::usage::{
    Applied, DayBatch, FORGET_MAX, FlushId, Rows, SESSION_PARTS, SessionUpdate, TRIM_MAX, UsageBounds,
    UsageStore, session_part,
};

/// Maximum number of rows in one chunk.
const ROWS_AT_ONCE: usize = 1000;

pub struct MemoryUsage {
    bounds: UsageBounds,
    state: Mutex<State>,
}

struct State {
    days: BTreeMap<Day, DayTable>,
    parts: Vec<Part>,
}

#[derive(Default)]
struct DayTable {
    expires_ms: u64,
    rows: BTreeMap<RowKey, Usage>,
    sums: HashMap<SessionKey, SessionSum>,
    /// Tokens and key of each session in `sums`, fewest tokens first.
    by_tokens: BTreeSet<(u64, SessionKey)>,
    applied: HashMap<Arc<str>, u64>,
}

#[derive(Default)]
struct Part {
    sessions: HashMap<SessionKey, (SessionSum, VecDeque<Turn>)>,
    by_last: BTreeSet<(u64, SessionKey)>,
    applied: HashMap<Arc<str>, u64>,
}

/// Records a flush. Returns whether the flush is new.
fn is_new(applied: &mut HashMap<Arc<str>, u64>, id: &FlushId) -> bool {
    let last = applied.entry(Arc::clone(&id.instance)).or_default();
    let new = *last < id.sequence;
    *last = id.sequence.max(*last);
    new
}

impl DayTable {
    fn add_row(&mut self, key: &RowKey, usage: &Usage, bounds: &UsageBounds) -> u64 {
        if self.rows.contains_key(key) || self.rows.len() < bounds.rows_own_max() {
            *self.rows.entry(key.clone()).or_default() += *usage;
            return 0;
        }
        let folded = key.folded();
        let fits = self.rows.contains_key(&folded) || self.rows.len() < bounds.rows_max - 1;
        *self.rows.entry(if fits { folded } else { RowKey::other() }).or_default() += *usage;
        usage.requests
    }

    fn add_session(&mut self, key: &SessionKey, more: &SessionSum) {
        let sum = self.sums.entry(key.clone()).or_default();
        self.by_tokens.remove(&(sum.usage.tokens.total(), key.clone()));
        *sum += *more;
        self.by_tokens.insert((sum.usage.tokens.total(), key.clone()));
    }

    fn trim(&mut self, bounds: &UsageBounds) -> u64 {
        if self.sums.len() <= bounds.sessions_max {
            return 0;
        }
        let excess = (self.sums.len() - bounds.sessions_left()).min(TRIM_MAX);
        for _ in 0..excess {
            if let Some((_, key)) = self.by_tokens.pop_first() {
                self.sums.remove(&key);
            }
        }
        excess as u64
    }
}

impl Part {
    fn add(&mut self, key: &SessionKey, update: &SessionUpdate, turns_max: usize) {
        let (sum, turns) = self.sessions.entry(key.clone()).or_default();
        self.by_last.remove(&(sum.last_ms, key.clone()));
        *sum += update.sum;
        self.by_last.insert((sum.last_ms, key.clone()));
        turns.extend(update.turns.iter().cloned());
        while turns.len() > turns_max {
            turns.pop_front();
        }
    }

    fn forget(&mut self, bounds: &UsageBounds, now_ms: u64) -> u64 {
        let excess = self.sessions.len().saturating_sub(bounds.part_max());
        let oldest_ms = now_ms.saturating_sub(bounds.retention.as_millis() as u64);
        let (mut too_many, mut forgotten) = (0, 0);
        while forgotten < FORGET_MAX
            && let Some((last_ms, key)) = self.by_last.first().cloned()
            && (too_many < excess || (excess == 0 && last_ms < oldest_ms))
        {
            self.by_last.pop_first();
            self.sessions.remove(&key);
            forgotten += 1;
            too_many += usize::from(excess > 0);
        }
        too_many as u64
    }
}

impl MemoryUsage {
    #[must_use]
    pub fn new(bounds: UsageBounds) -> Self {
        let parts = (0..SESSION_PARTS).map(|_| Part::default()).collect();
        Self { bounds, state: Mutex::new(State { days: BTreeMap::new(), parts }) }
    }
}

#[async_trait]
impl UsageStore for MemoryUsage {
    async fn add_day(&self, id: &FlushId, day: Day, batch: &DayBatch) -> Result<Applied, StoreError> {
        let mut state = self.state.lock();
        state.days.retain(|_, table| table.expires_ms > id.now_ms);
        let ttl_ms = self.bounds.day_ttl(day, id.now_ms).as_millis() as u64;
        let table = state
            .days
            .entry(day)
            .or_insert_with(|| DayTable { expires_ms: id.now_ms + ttl_ms, ..DayTable::default() });
        if !is_new(&mut table.applied, id) {
            return Ok(Applied { repeated: true, ..Applied::default() });
        }
        let rows = batch.rows.iter();
        let folded = rows.map(|(key, usage)| table.add_row(key, usage, &self.bounds)).sum();
        for (key, sum) in &batch.sessions {
            table.add_session(key, sum);
        }
        Ok(Applied { repeated: false, folded, dropped: table.trim(&self.bounds) })
    }

    async fn add_sessions(
        &self,
        id: &FlushId,
        part: u8,
        batch: &[(SessionKey, SessionUpdate)],
    ) -> Result<Applied, StoreError> {
        let mut state = self.state.lock();
        let part = &mut state.parts[usize::from(part % SESSION_PARTS)];
        let new = is_new(&mut part.applied, id);
        if new {
            batch.iter().for_each(|(key, update)| part.add(key, update, self.bounds.turns_max));
        }
        Ok(Applied { repeated: !new, folded: 0, dropped: part.forget(&self.bounds, id.now_ms) })
    }

    async fn rows(&self, day: Day, from: u64) -> Result<Rows, StoreError> {
        let state = self.state.lock();
        let Some(table) = state.days.get(&day) else { return Ok(Rows::default()) };
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        let rows = table.rows.iter().skip(from).take(ROWS_AT_ONCE);
        let rows: Vec<_> = rows.map(|(key, usage)| (key.clone(), *usage)).collect();
        let next = from + rows.len();
        Ok(Rows { rows, next: (next < table.rows.len()).then_some(next as u64) })
    }

    async fn top_sessions(
        &self,
        day: Day,
        tokens_max: Option<u64>,
        skip: usize,
        limit: usize,
    ) -> Result<Vec<(SessionKey, SessionSum)>, StoreError> {
        let state = self.state.lock();
        let Some(table) = state.days.get(&day) else { return Ok(Vec::new()) };
        let most_first = table.by_tokens.iter().rev();
        let below = most_first.filter(|(tokens, _)| tokens_max.is_none_or(|max| *tokens <= max));
        let of = |(_, key): &(u64, SessionKey)| Some((key.clone(), *table.sums.get(key)?));
        Ok(below.skip(skip).take(limit).filter_map(of).collect())
    }

    async fn session(&self, key: &SessionKey) -> Result<Option<SessionUpdate>, StoreError> {
        let state = self.state.lock();
        let kept = state.parts[usize::from(session_part(key.as_str()))].sessions.get(key);
        Ok(kept.map(|(sum, turns)| SessionUpdate { sum: *sum, turns: turns.iter().cloned().collect() }))
    }
}
