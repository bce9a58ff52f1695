//! What the responses of one endpoint have taught.

use smallvec::SmallVec;

use super::hit_rate::RecentTokens;

/// Number of consecutive responses without any of the expected tokens after which an endpoint counts as restarted.
pub(super) const MISSES_MAX: usize = 3;
/// A response without this part of the expected tokens is a miss.
pub(super) const MISS_PART: f64 = 0.1;
/// Maximum number of APIs remembered of one endpoint. Responses of further ones teach only what they state.
const APIS_MAX: usize = 16;

/// The age of an entry that was expected to hold, and the part of it that came true.
pub(super) type Lesson = (u64, f64);

#[derive(Clone, Debug, Default)]
pub(super) struct Learned {
    pub(super) recent: RecentTokens,
    /// The latest responses, if they were all misses.
    misses: Vec<Lesson>,
    /// Whether a response has had expected tokens since the endpoint last lost its cache. Without, misses do not tell a
    /// restart from a cache that is off.
    has_hit: bool,
    /// Digests of the paths whose responses have stated cached tokens. Only there, a missing number means 0.
    stating: SmallVec<[u64; 2]>,
}

/// What a response means.
#[derive(Debug, PartialEq)]
pub(super) enum Meaning {
    /// It is too early to tell.
    Open,
    /// These responses show how long the endpoint remembers.
    Lessons(Vec<Lesson>),
    /// The endpoint has lost its cache.
    Loss,
}

impl Learned {
    /// Returns whether the response of an API tells the cached tokens. Some servers leave the number out if it is 0, and
    /// some APIs never have it.
    pub(super) fn tells(&mut self, api: u64, is_stated: bool) -> bool {
        if is_stated && !self.stating.contains(&api) && self.stating.len() < APIS_MAX {
            self.stating.push(api);
        }
        is_stated || self.stating.contains(&api)
    }

    /// Interprets a response. `is_miss`: it had none of the tokens that were expected with confidence.
    pub(super) fn interpret(&mut self, lesson: Lesson, is_miss: bool) -> Meaning {
        self.misses.push(lesson);
        if is_miss && self.has_hit {
            if self.misses.len() < MISSES_MAX {
                return Meaning::Open;
            }
            self.forget();
            return Meaning::Loss;
        }
        self.has_hit |= lesson.1 >= MISS_PART;
        Meaning::Lessons(std::mem::take(&mut self.misses))
    }

    /// Begins anew, because the endpoint has lost its cache.
    pub(super) fn forget(&mut self) {
        self.misses.clear();
        self.has_hit = false;
    }
}
