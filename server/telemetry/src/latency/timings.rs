//! The histograms of one model or endpoint, and the histograms of all models or endpoints of a pool.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use evenkeel_domain::usage::OTHER;
use parking_lot::Mutex;

use super::{
    Answer,
    histogram::{FIRST_TOKEN_US, Histogram, PER_TOKEN_US, TOTAL_US},
    room::Place,
};

/// How long histograms stay that were not observed: Prometheus has read them many times by then.
const IDLE: Duration = Duration::from_secs(600);
/// Longest duration that is observed. No request takes longer, because its ticket is valid for a day.
const DURATION_MS_MAX: u64 = 86_400_000;

/// The histograms of the answers of one model or endpoint.
#[derive(Debug, Default)]
pub(super) struct Timings {
    pub(super) first_token: Histogram<{ FIRST_TOKEN_US.len() }>,
    pub(super) per_token: Histogram<{ PER_TOKEN_US.len() }>,
    pub(super) total: Histogram<{ TOTAL_US.len() }>,
}

impl Timings {
    fn observe(&self, answer: &Answer<'_>) {
        let total_ms = answer.total_ms.min(DURATION_MS_MAX);
        self.total.observe(&TOTAL_US, total_ms * 1000);
        let Some(first_ms) = answer.first_token_ms else { return };
        let first_ms = first_ms.min(total_ms);
        self.first_token.observe(&FIRST_TOKEN_US, first_ms * 1000);
        if let Some(more_tokens @ 1..) = answer.output_tokens.map(|tokens| tokens.saturating_sub(1)) {
            self.per_token.observe(&PER_TOKEN_US, (total_ms - first_ms) * 1000 / more_tokens);
        }
    }
}

/// The histograms of one name, with what decides how long they stay.
#[derive(Debug)]
struct Named {
    timings: Timings,
    place: Place,
    /// Number of answers at the last check, and when a check last found more of them.
    checked: Mutex<(u64, Instant)>,
}

impl Named {
    /// Returns how long no answer has come, as far as the checks know.
    fn idle(&self, now: Instant) -> Duration {
        let (count, mut checked) = (self.timings.total.count(), self.checked.lock());
        if checked.0 != count {
            *checked = (count, now);
        }
        now.saturating_duration_since(checked.1)
    }
}

/// The histograms of a pool's models, or of its endpoints. An observation takes no lock.
#[derive(Debug, Default)]
pub(super) struct ByName {
    named: ArcSwap<HashMap<Arc<str>, Arc<Named>>>,
    /// Held while `named` is replaced.
    writing: Mutex<()>,
    /// The histograms of all names for which there is no room.
    other: Timings,
}

impl ByName {
    /// Observes an answer. `place` takes the place of a name that has none, given the number of names that have.
    pub(super) fn observe(
        &self,
        name: &str,
        answer: &Answer<'_>,
        place: impl FnOnce(usize) -> Option<Place>,
    ) {
        let named = self.named.load();
        if let Some(known) = named.get(name) {
            return known.timings.observe(answer);
        }
        // A client may call its model so. It must not have series beside those of the rest.
        let place = if name == OTHER { None } else { place(named.len()) };
        match place {
            Some(place) => self.insert(name, place).timings.observe(answer),
            None => self.other.observe(answer),
        }
    }

    fn insert(&self, name: &str, place: Place) -> Arc<Named> {
        let _writing = self.writing.lock();
        let mut named = HashMap::clone(&self.named.load());
        let new = || {
            let checked = Mutex::new((0, Instant::now()));
            Arc::new(Named { timings: Timings::default(), place, checked })
        };
        // Another request may have inserted the name meanwhile. The place is then given back.
        let known = Arc::clone(named.entry(name.into()).or_insert_with(new));
        self.named.store(Arc::new(named));
        known
    }

    /// Removes the names that have been idle for [`IDLE`], if `may_go` is true for them. Removes all names if `now` is `None`.
    pub(super) fn remove(&self, now: Option<Instant>, may_go: impl Fn(&str, &Place) -> bool) {
        let goes = |(name, known): &(&Arc<str>, &Arc<Named>)| {
            now.is_none_or(|now| known.idle(now) >= IDLE && may_go(name, &known.place))
        };
        let going: Vec<Arc<str>> =
            self.named.load().iter().filter(goes).map(|(name, _)| Arc::clone(name)).collect();
        if going.is_empty() {
            return;
        }
        let _writing = self.writing.lock();
        let mut named = HashMap::clone(&self.named.load());
        for name in &going {
            named.remove(name);
        }
        self.named.store(Arc::new(named));
    }

    /// Calls `f` with each name that has answers, and its histograms.
    pub(super) fn each(&self, mut f: impl FnMut(&str, &Timings)) {
        for (name, known) in &**self.named.load() {
            f(name, &known.timings);
        }
        f(OTHER, &self.other);
    }
}
