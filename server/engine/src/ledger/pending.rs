//! Recorded usage that waits for the next flush: sums, and the turns of sessions. All its parts are bounded.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, HashMap, VecDeque},
    hash::Hash,
    sync::Arc,
};

use evenkeel_domain::usage::{
    Day, RowKey, SEPARATOR, SessionKey, SessionSum, Turn, Usage, write_row, write_session,
};
use evenkeel_store::usage::{DayBatch, SESSION_PARTS, SessionUpdate, session_part};

use super::UsageRecord;

/// Maximum number of rows of one day with names of their own. Further rows are folded into `(other)` of their model.
/// From twice this number on, they are folded into `(other)` of all models.
const ROWS_MAX: usize = 10_000;
/// Maximum number of sessions in the list of one day. Further sessions are not in the list.
const DAY_SESSIONS_MAX: usize = 10_000;
/// Maximum number of sessions of one part. Further sessions are dropped.
const PART_SESSIONS_MAX: usize = 1_000;
/// Maximum number of turns. Further turns are counted only in the sums.
const TURNS_MAX: usize = 32_768;
/// Maximum number of days. Beyond it, the oldest day is dropped.
const DAYS_MAX: usize = 8;
/// Maximum number of rows, sessions and turns in one call. They bound the duration of the call in the store.
const ROWS_AT_ONCE: usize = 500;
const SESSIONS_AT_ONCE: usize = 200;
const TURNS_AT_ONCE: usize = 2_000;

/// The destination of a batch. The store applies the batches of one destination in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Place {
    Day(Day),
    Part(u8),
}

/// The content of one call.
#[derive(Debug)]
pub(super) enum Batch {
    Day(DayBatch),
    Part(Vec<(SessionKey, SessionUpdate)>),
}

impl Batch {
    /// Returns the number of requests in the rows of the batch.
    pub(super) fn requests(&self) -> u64 {
        match self {
            Self::Day(batch) => batch.rows.iter().map(|(_, usage)| usage.requests).sum(),
            Self::Part(_) => 0,
        }
    }
}

/// What the bounds removed from a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    /// Whether the record is counted under `(other)`.
    pub(super) folded: bool,
    /// Whether the record is missing in the sums of its session.
    pub(super) session: bool,
    /// Whether the record is missing among the turns.
    pub(super) turn: bool,
    /// Number of requests of the oldest day, if that day was dropped.
    pub(super) requests: u64,
}

/// A map with lookups by text. A lookup allocates a key only if it adds an entry.
struct Indexed<K, V> {
    index: HashMap<K, usize>,
    entries: Vec<(K, V)>,
}

impl<K, V> Default for Indexed<K, V> {
    fn default() -> Self {
        Self { index: HashMap::new(), entries: Vec::new() }
    }
}

impl<K: Clone + Eq + Hash + Borrow<str>, V: Default> Indexed<K, V> {
    fn len(&self) -> usize {
        self.entries.len()
    }

    fn at(&self, text: &str) -> Option<usize> {
        self.index.get(text).copied()
    }

    /// Returns the index of the key's entry. Adds an entry if the key has none.
    fn place(&mut self, key: K) -> usize {
        let next = self.entries.len();
        let at = *self.index.entry(key.clone()).or_insert(next);
        if at == next {
            self.entries.push((key, V::default()));
        }
        at
    }
}

#[derive(Default)]
struct DayPending {
    rows: Indexed<RowKey, Row>,
    sessions: Indexed<SessionKey, SessionSum>,
}

#[derive(Default)]
struct Row {
    usage: Usage,
    /// Model and route. All turns of this row share the two texts.
    names: Option<(Arc<str>, Arc<str>)>,
}

#[derive(Default)]
struct Session {
    sum: SessionSum,
    turns: VecDeque<Turn>,
}

/// All usage that waits.
pub(super) struct Pending {
    days: BTreeMap<Day, DayPending>,
    parts: Vec<Indexed<SessionKey, Session>>,
    turns: usize,
    requests: u64,
    /// Buffers for the keys of a record, so that a known key causes no allocation.
    text: String,
    session_text: String,
}

impl Pending {
    pub(super) fn new() -> Self {
        Self {
            days: BTreeMap::new(),
            parts: (0..SESSION_PARTS).map(|_| Indexed::default()).collect(),
            turns: 0,
            requests: 0,
            text: String::with_capacity(256),
            session_text: String::with_capacity(128),
        }
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests
    }

    pub(super) fn is_empty(&self) -> bool {
        self.days.is_empty() && self.parts.iter().all(|part| part.len() == 0)
    }

    pub(super) fn add(&mut self, record: &UsageRecord<'_>, now_ms: u64, turns_max: usize) -> Lost {
        let mut lost = Lost::default();
        let usage = Usage {
            requests: 1,
            estimated: u64::from(record.estimated),
            tokens: record.tokens,
            cost: record.cost,
        };
        let today = Day::of_ms(now_ms);
        if !self.days.contains_key(&today) && self.days.len() >= DAYS_MAX {
            let oldest = self.days.pop_first().map(|(_, day)| day).unwrap_or_default();
            lost.requests = oldest.rows.entries.iter().map(|(_, row)| row.usage.requests).sum();
            self.requests -= lost.requests;
        }
        let day = self.days.entry(today).or_default();
        self.requests += 1;
        self.text.clear();
        write_row(&mut self.text, record.consumer, record.model, record.route);
        let row = day.row(&self.text, &mut lost.folded);
        row.usage += usage;
        if record.session.is_empty() {
            return lost;
        }

        let own_names = || {
            let [_, model, route] = names(&self.text);
            (model.into(), route.into())
        };
        // The names of a folded row differ from the names of this record.
        let (model, route) =
            if lost.folded { own_names() } else { row.names.get_or_insert_with(own_names).clone() };
        let sum = SessionSum { last_ms: now_ms, usage };
        self.session_text.clear();
        write_session(&mut self.session_text, record.consumer, record.session);
        let text = self.session_text.as_str();
        match session_at(&mut day.sessions, text, DAY_SESSIONS_MAX) {
            Some(known) => *known += sum,
            None => lost.session = true,
        }
        let part = &mut self.parts[usize::from(session_part(text))];
        let Some(session) = session_at(part, text, PART_SESSIONS_MAX) else {
            lost.session = true;
            return lost;
        };
        session.sum += sum;
        if session.turns.len() >= turns_max {
            session.turns.pop_front(); // the store would drop it too
            self.turns -= 1;
        }
        if self.turns >= TURNS_MAX || turns_max == 0 {
            lost.turn = turns_max > 0;
            return lost;
        }
        self.turns += 1;
        session.turns.push_back(Turn {
            at_ms: now_ms,
            model,
            route,
            status: record.status,
            outcome: record.outcome,
            tokens: record.tokens,
            estimated: record.estimated,
            cost: record.cost,
            first_token_ms: record.first_token_ms,
            total_ms: record.total_ms,
        });
        lost
    }

    /// Takes the usage for the destinations that are `free`, in batches of bounded size.
    pub(super) fn take(&mut self, free: impl Fn(Place) -> bool) -> Vec<(Place, Batch)> {
        let mut batches = Vec::new();
        let days: Vec<Day> = self.days.keys().copied().filter(|day| free(Place::Day(*day))).collect();
        for day in days {
            let Some(pending) = self.days.remove(&day) else { continue };
            batches.extend(pending.batches().map(|batch| (Place::Day(day), batch)));
        }
        for (number, part) in (0..SESSION_PARTS).zip(&mut self.parts) {
            if part.len() == 0 || !free(Place::Part(number)) {
                continue;
            }
            let mut batch = Vec::new();
            let mut turns = 0;
            for (key, session) in std::mem::take(part).entries {
                self.turns -= session.turns.len();
                if batch.len() >= SESSIONS_AT_ONCE
                    || (turns > 0 && turns + session.turns.len() > TURNS_AT_ONCE)
                {
                    batches.push((Place::Part(number), Batch::Part(std::mem::take(&mut batch))));
                    turns = 0;
                }
                turns += session.turns.len();
                batch.push((key, SessionUpdate { sum: session.sum, turns: session.turns.into() }));
            }
            batches.push((Place::Part(number), Batch::Part(batch)));
        }
        self.requests -= batches.iter().map(|(_, batch)| batch.requests()).sum::<u64>();
        batches
    }
}

impl DayPending {
    /// Returns the row of a key, or the row into which the key is folded.
    fn row(&mut self, text: &str, folded: &mut bool) -> &mut Row {
        let at = self.rows.at(text).unwrap_or_else(|| {
            let mut key = RowKey::from_text(text).unwrap_or_else(RowKey::other);
            if self.rows.len() >= ROWS_MAX {
                *folded = true;
                key = key.folded();
                if self.rows.at(key.as_str()).is_none() && self.rows.len() >= 2 * ROWS_MAX {
                    key = RowKey::other();
                }
            }
            self.rows.place(key)
        });
        &mut self.rows.entries[at].1
    }

    fn batches(self) -> impl Iterator<Item = Batch> {
        let rows: Vec<_> = self.rows.entries.into_iter().map(|(key, row)| (key, row.usage)).collect();
        let sessions = self.sessions.entries;
        let calls = rows.len().div_ceil(ROWS_AT_ONCE).max(sessions.len().div_ceil(SESSIONS_AT_ONCE));
        let (mut rows, mut sessions) = (rows.into_iter(), sessions.into_iter());
        (0..calls).map(move |_| {
            Batch::Day(DayBatch {
                rows: rows.by_ref().take(ROWS_AT_ONCE).collect(),
                sessions: sessions.by_ref().take(SESSIONS_AT_ONCE).collect(),
            })
        })
    }
}

/// Returns the value of a session. Adds the session if it is missing. `None` if there are already `max` sessions.
fn session_at<'a, V: Default>(
    sessions: &'a mut Indexed<SessionKey, V>,
    text: &str,
    max: usize,
) -> Option<&'a mut V> {
    let at = match sessions.at(text) {
        Some(at) => at,
        None if sessions.len() >= max => return None,
        None => sessions.place(SessionKey::from_text(text)?),
    };
    Some(&mut sessions.entries[at].1)
}

fn names(text: &str) -> [&str; 3] {
    let mut parts = text.splitn(3, SEPARATOR);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_000_000_000;

    fn record<'a>(consumer: &'a str, session: &'a str) -> UsageRecord<'a> {
        UsageRecord { consumer, model: "m", route: "r", session, ..UsageRecord::default() }
    }

    fn sums(batches: &[(Place, Batch)]) -> (u64, u64, usize) {
        let (mut requests, mut of_sessions, mut turns) = (0, 0, 0);
        for (_, batch) in batches {
            requests += batch.requests();
            if let Batch::Part(sessions) = batch {
                assert!(sessions.len() <= SESSIONS_AT_ONCE);
                of_sessions += sessions.iter().map(|(_, u)| u.sum.usage.requests).sum::<u64>();
                turns += sessions.iter().map(|(_, u)| u.turns.len()).sum::<usize>();
            }
        }
        (requests, of_sessions, turns)
    }

    #[test]
    fn sums_are_taken_for_free_places_only() {
        let mut pending = Pending::new();
        for n in 0..10 {
            assert_eq!(pending.add(&record("c", if n % 2 == 0 { "s" } else { "" }), NOW, 3), Lost::default());
        }
        assert_eq!(pending.requests(), 10);
        let parts = pending.take(|place| matches!(place, Place::Part(_)));
        assert_eq!(sums(&parts), (0, 5, 3));
        assert!(!pending.is_empty());
        let days = pending.take(|_| true);
        assert_eq!((days.len(), sums(&days)), (1, (10, 0, 0)));
        assert!(pending.is_empty() && pending.requests() == 0 && pending.turns == 0);
    }

    #[test]
    fn pending_usage_is_bounded_and_no_request_is_lost() {
        let mut pending = Pending::new();
        let (mut folded, mut sessions, mut turns) = (0, 0, 0);
        let count = 60_000;
        for n in 0..count {
            let (name, model) = (format!("c{n}"), format!("m{}", n % 30_000));
            let record = UsageRecord {
                consumer: &name,
                model: &model,
                route: "r",
                session: &name[..name.len().min(5)],
                ..UsageRecord::default()
            };
            let lost = pending.add(&record, NOW, 2);
            folded += u64::from(lost.folded);
            sessions += u64::from(lost.session);
            turns += u64::from(lost.turn);
        }
        assert_eq!(folded, count - ROWS_MAX as u64);
        assert!(sessions > 0 && turns == 0, "{sessions} {turns}");
        assert!(pending.turns <= TURNS_MAX);
        let day = &pending.days[&Day::of_ms(NOW)];
        assert_eq!((day.rows.len(), day.sessions.len()), (2 * ROWS_MAX + 1, DAY_SESSIONS_MAX));
        assert!(pending.parts.iter().all(|part| part.len() <= PART_SESSIONS_MAX));
        let batches = pending.take(|_| true);
        assert_eq!(sums(&batches).0, count);
        assert!(pending.is_empty() && pending.turns == 0);
    }

    #[test]
    fn turns_and_days_are_bounded() {
        let mut pending = Pending::new();
        let mut lost_turns = 0;
        for n in 0..(TURNS_MAX + 100) {
            let lost = pending.add(&record("c", &format!("s{}", n % 200)), NOW, 1000);
            lost_turns += u64::from(lost.turn);
        }
        assert_eq!(lost_turns, 100);
        let mut pending = Pending::new();
        let lost: Vec<u64> =
            (0..10).map(|day| pending.add(&record("c", ""), NOW + day * 86_400_000, 10).requests).collect();
        assert_eq!(lost, [0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!((pending.days.len(), pending.requests()), (DAYS_MAX, 8));
    }
}
