//! Prefix and session affinity: which endpoints probably have the beginning of a prompt in their caches.
//!
//! Each sidecar has an [`index`] of the prefixes that the endpoints of a pool have lately read. It records its own
//! placements, and those that the other sidecars [share](sharing) through the store. The index may be late or wrong: it
//! only shifts the choice, whose loads are exact. [`trust`] learns from responses which entries still hold.

use std::{collections::HashMap, sync::Arc, time::Duration};

use evenkeel_domain::{
    HolderId, LeaseId, Roster,
    settings::{PoolRule, PrefixCache, SessionAffinity},
};
use evenkeel_store::placements::Position;
use evenkeel_telemetry::PrefixFigures;
use parking_lot::Mutex;
use ring::digest;
use tokio::time::Instant;
use tracing::{debug, info};

mod generations;
mod hit_rate;
mod index;
mod learned;
mod placements;
mod sharing;
#[cfg(test)]
mod tests;
mod trust;

use generations::Generations;
pub use hit_rate::HitRate;
use hit_rate::RecentTokens;
use index::{Index, Match};
use learned::{Learned, MISS_PART, Meaning};
use placements::{Placement, Unshared};
use trust::Trust;

/// Maximum number of requests in flight whose placements the sidecar remembers, to learn from their responses.
const EXPECTED_MAX: usize = 16_384;
/// Maximum number of endpoints whose responses are remembered: several times those of a pool.
const LEARNED_MAX: usize = 8192;
/// Part of a cache's size below which an entry is as good as new, so that repeating it would bring nothing.
const FRESH_PART: u64 = 8;
/// Time after which the other sidecars hear again where a session is.
const SESSION_REPEAT: Duration = Duration::from_secs(60);
/// Expected tokens below which a response without them is no sign of a restart: some caches have units of 1024 tokens.
const MISS_TOKENS_MIN: f64 = 2048.0;

/// What a gateway reports of a prompt: its session and its beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromptPrefix {
    /// Hashes of successively longer prefixes.
    pub hashes: Vec<u64>,
    /// The size of each prefix in bytes.
    pub bytes: Vec<u32>,
    /// The size of the whole prompt in bytes.
    pub prompt_bytes: u64,
    pub model: String,
    pub consumer: String,
    /// Empty if the request belongs to none.
    pub session: String,
    /// The path of the request, which tells its API.
    pub path: String,
}

impl PromptPrefix {
    pub(crate) fn is_empty(&self) -> bool {
        self.hashes.is_empty() && self.session.is_empty()
    }
}

/// What the index knows about a prompt.
#[derive(Clone, Debug)]
pub struct LookUp {
    /// The endpoints that probably have the beginning of the prompt, and its tokens; sorted by address.
    pub cached: Vec<(Arc<str>, u64)>,
    /// The endpoint at which the request's session must stay.
    pub stays_at: Option<Arc<str>>,
    /// Keys of the prefixes in the index.
    keys: Vec<u64>,
    session: Option<u64>,
    api: u64,
    matches: Vec<Expected>,
}

/// A prompt that was placed on an endpoint.
#[derive(Debug)]
pub struct Placed {
    pub endpoint: Arc<str>,
    /// Tokens of the prompt that the endpoint must read.
    pub unread: u64,
    pub found: LookUp,
}

/// What the index expects of the response to a placed prompt.
#[derive(Clone, Debug, Default)]
struct Expected {
    endpoint: Arc<str>,
    /// Part of the prompt that the index has found, and its age in tokens that the endpoint has read since.
    part: f64,
    age: u64,
    /// Part of the prompt that the choice counted on.
    counted_on: f64,
    /// How often the endpoint had lost its cache when the prompt was placed.
    losses: u32,
    api: u64,
    /// What this placement added: keys, and the session if it has moved.
    added: Vec<u64>,
    session: Option<u64>,
}

/// How a placed request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The endpoint has not read the prompt, as far as anyone knows.
    None,
    /// The response does not state its tokens.
    Unknown,
    Read(ReadTokens),
}

/// The tokens of a prompt, as its response states them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadTokens {
    pub input: u64,
    pub cached: u64,
    /// Whether the response stated `cached`. Some servers leave it out if it is 0.
    pub is_stated: bool,
}

/// The prefixes of one pool.
pub struct Prefixes {
    /// Whether the pool considers prefix caches. Otherwise, hashes are ignored.
    considers_caches: bool,
    per_consumer: bool,
    /// The age in tokens up to which an entry is as good as new.
    fresh: u64,
    affinity: Option<SessionAffinity>,
    state: Mutex<State>,
}

struct State {
    index: Index,
    trust: Trust,
    expected: Generations<(HolderId, LeaseId), Expected>,
    unshared: Unshared,
    /// How far this sidecar has read the placements of all sidecars.
    position: Position,
    used_at: Option<Instant>,
    /// Sums over the prompts whose responses stated the tokens that came from the cache.
    figures: PrefixFigures,
    learned: HashMap<Arc<str>, Learned>,
    sessions: Generations<u64, AtEndpoint>,
}

/// The endpoint of a session's latest request, and when the other sidecars last got its placement.
struct AtEndpoint {
    endpoint: Arc<str>,
    shared_at: Instant,
}

impl Prefixes {
    /// Returns `None` if the pool considers neither prefix caches nor sessions.
    pub(crate) fn new(rule: &PoolRule) -> Option<Self> {
        let affinity = rule.session_affinity;
        let cache = match &rule.prefix_cache {
            Some(cache) => cache.clone(),
            None => {
                affinity?;
                PrefixCache::default()
            }
        };
        let state = State {
            index: Index::new(cache.entries_max),
            trust: Trust::new(cache.tokens),
            expected: Generations::new(EXPECTED_MAX),
            unshared: Unshared::default(),
            position: Position::default(),
            used_at: None,
            figures: PrefixFigures::default(),
            learned: HashMap::new(),
            sessions: Generations::new(cache.entries_max),
        };
        Some(Self {
            considers_caches: rule.prefix_cache.is_some(),
            per_consumer: cache.per_consumer,
            fresh: cache.tokens / FRESH_PART,
            affinity,
            state: Mutex::new(state),
        })
    }

    /// Returns what the index knows about a prompt of that many tokens.
    pub(crate) fn look_up(&self, prefix: PromptPrefix, tokens: u64) -> LookUp {
        let PromptPrefix { mut hashes, bytes, prompt_bytes, model, consumer, session, path } = prefix;
        if !self.considers_caches {
            hashes.clear();
        }
        let mut api = 0;
        if !hashes.is_empty() {
            let salt = digest_of(&[&model, if self.per_consumer { &consumer } else { "" }]);
            hashes.iter_mut().for_each(|hash| *hash ^= salt);
            api = digest_of(&[path.split('?').next().unwrap_or_default()]);
        }
        let affinity = self.affinity.filter(|_| !session.is_empty());
        let session = affinity.map(|_| digest_of(&["session", &consumer, &session]));
        let mut state = self.state.lock();
        let State { index, trust, used_at, sessions, .. } = &mut *state;
        *used_at = Some(Instant::now());
        let mut matches: Vec<Expected> = Vec::new();
        for Match { endpoint, depth, age } in index.look_up(&hashes) {
            let part = (f64::from(bytes[depth]) / prompt_bytes.max(1) as f64).min(1.0);
            let losses = index.losses(&endpoint);
            let counted_on = part * trust.at(age);
            matches.push(Expected { endpoint, part, age, counted_on, losses, ..Expected::default() });
        }
        let at = session.and_then(|session| sessions.get_mut(&session)).map(|at| Arc::clone(&at.endpoint));
        drop(state);
        let in_cache = |expected: &Expected| {
            (Arc::clone(&expected.endpoint), (expected.counted_on * tokens as f64) as u64)
        };
        let mut cached: Vec<(Arc<str>, u64)> = matches.iter().map(in_cache).collect();
        if let (Some(SessionAffinity::Soft { tokens: bonus }), Some(endpoint)) = (affinity, &at) {
            match cached.iter_mut().find(|(address, _)| address == endpoint) {
                Some((_, in_cache)) => *in_cache = (*in_cache).max(bonus.min(tokens)),
                None => cached.push((Arc::clone(endpoint), bonus.min(tokens))),
            }
        }
        cached.retain(|(_, in_cache)| *in_cache > 0);
        cached.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let stays_at = at.filter(|_| affinity == Some(SessionAffinity::Hard));
        LookUp { cached, stays_at, keys: hashes, session, api, matches }
    }

    /// Records that a prompt was placed. A repeated call changes nothing.
    pub(crate) fn placed(&self, holder: &HolderId, lease: LeaseId, placed: Placed) {
        let Placed { endpoint, unread, found } = placed;
        let LookUp { keys, session, api, matches, .. } = found;
        let id = (holder.clone(), lease);
        let mut state = self.state.lock();
        if state.expected.contains(&id) {
            return;
        }
        let expected = matches.into_iter().find(|expected| expected.endpoint == endpoint);
        let mut expected =
            expected.unwrap_or_else(|| Expected { endpoint: Arc::clone(&endpoint), ..Expected::default() });
        let keys = state.index.place(&endpoint, keys, unread, self.fresh);
        let session = session.filter(|session| state.move_session(*session, &endpoint));
        (expected.api, expected.added, expected.session) = (api, keys.clone(), session);
        state.expected.insert(id, expected);
        state.unshared.push(Placement { endpoint, unread, keys, session });
    }

    /// Learns from the response to a placed prompt.
    pub(crate) fn responded(&self, holder: &HolderId, lease: LeaseId, answer: Answer) {
        let mut state = self.state.lock();
        let Some(expected) = state.expected.remove(&(holder.clone(), lease)) else { return };
        match answer {
            Answer::None => state.take_back(&expected),
            Answer::Read(read) if read.input > 0 && self.considers_caches => state.learn(expected, read),
            Answer::Unknown | Answer::Read(_) => {}
        }
    }

    /// Forgets the caches of endpoints that have left the pool, and of those that have entered it again.
    pub(crate) fn roster_changed(&self, before: &Roster, after: &Roster) {
        let mut state = self.state.lock();
        state.learned.retain(|address, _| after.get(address).is_some());
        for left in before.endpoints().iter().filter(|endpoint| after.get(&endpoint.address).is_none()) {
            state.index.forget(&left.address);
        }
        // All endpoints enter when a sidecar starts.
        if before.is_empty() {
            return;
        }
        for entered in after.endpoints().iter().filter(|endpoint| before.get(&endpoint.address).is_none()) {
            if state.index.forget(&entered.address) {
                state.unshared.push_loss(Arc::clone(&entered.address));
            }
        }
    }

    /// Returns the hit rate of each endpoint and of all together, over the latest responses that stated cached tokens.
    #[must_use]
    pub fn hit_rates(&self, roster: &Roster) -> (Option<HitRate>, HashMap<Arc<str>, HitRate>) {
        let state = self.state.lock();
        let listed = || state.learned.iter().filter(|(address, _)| roster.get(address).is_some());
        let all = listed().fold(RecentTokens::default(), |all, (_, one)| all + one.recent);
        let each = listed().filter_map(|(address, one)| Some((Arc::clone(address), one.recent.rate()?)));
        (all.rate(), each.collect())
    }

    /// Returns the size of the index, and how well its expectations came true so far.
    #[must_use]
    pub fn figures(&self) -> PrefixFigures {
        let state = self.state.lock();
        PrefixFigures { entries: state.index.len() + state.sessions.len(), ..state.figures }
    }
}

impl State {
    /// Moves a session to an endpoint. Returns whether the other sidecars should hear of it.
    fn move_session(&mut self, session: u64, endpoint: &Arc<str>) -> bool {
        let now = Instant::now();
        if let Some(at) = self.sessions.get_mut(&session)
            && at.endpoint == *endpoint
            && now.duration_since(at.shared_at) < SESSION_REPEAT
        {
            return false;
        }
        self.sessions.insert(session, AtEndpoint { endpoint: Arc::clone(endpoint), shared_at: now });
        true
    }

    /// Takes back what a placement added, because the endpoint has not read the prompt. Other sidecars that know of
    /// it keep it, and may miss.
    fn take_back(&mut self, expected: &Expected) {
        self.index.unplace(&expected.endpoint, &expected.added);
        if let Some(session) = expected.session
            && self.sessions.get_mut(&session).is_some_and(|at| at.endpoint == expected.endpoint)
        {
            self.sessions.remove(&session);
        }
    }

    fn learn(&mut self, expected: Expected, read: ReadTokens) {
        let Expected { endpoint, part, age, counted_on, losses, api, .. } = expected;
        if self.learned.len() >= LEARNED_MAX && !self.learned.contains_key(&endpoint) {
            self.learned.clear();
        }
        let learned = self.learned.entry(Arc::clone(&endpoint)).or_default();
        if !learned.tells(api, read.is_stated || read.cached > 0) {
            return;
        }
        let (input, cached) = (read.input as f64, read.cached.min(read.input));
        self.figures.prompt_tokens += read.input;
        self.figures.cached_tokens += cached;
        self.figures.expected_tokens += (counted_on * input) as u64;
        learned.recent.add(input, counted_on * input, cached as f64);
        // Nothing was expected, or the endpoint has lost the cache that this prompt was placed for.
        if part <= 0.0 || losses != self.index.losses(&endpoint) {
            return;
        }
        let hit = (cached as f64 / (part * input)).min(1.0);
        debug!(%endpoint, part, age, hit, "a prompt was answered");
        let is_miss = hit < MISS_PART && self.trust.at(age) > 0.5 && part * input >= MISS_TOKENS_MIN;
        match learned.interpret((age, hit), is_miss) {
            Meaning::Open => {}
            Meaning::Lessons(lessons) => {
                for (age, hit) in lessons {
                    self.trust.learn(age, hit);
                }
            }
            Meaning::Loss => {
                self.index.forget(&endpoint);
                info!(%endpoint, "an endpoint seems to have restarted: its prefix cache has lost what was expected");
                self.figures.losses += 1;
                self.unshared.push_loss(endpoint);
            }
        }
    }

    /// Applies the placements of another sidecar.
    fn apply(&mut self, placements: Vec<Placement>) {
        for placement in placements {
            if placement.is_loss() {
                self.index.forget(&placement.endpoint);
                if let Some(learned) = self.learned.get_mut(&placement.endpoint) {
                    learned.forget();
                }
                continue;
            }
            let Placement { endpoint, unread, keys, session } = placement;
            self.index.place(&endpoint, keys, unread, 0);
            if let Some(session) = session {
                self.move_session(session, &endpoint);
            }
        }
    }
}

/// Returns a digest of names. The same at all sidecars.
fn digest_of(names: &[&str]) -> u64 {
    let mut context = digest::Context::new(&digest::SHA256);
    for name in names {
        context.update(&(name.len() as u64).to_le_bytes());
        context.update(name.as_bytes());
    }
    let digest = context.finish();
    digest.as_ref().first_chunk().copied().map_or(0, u64::from_le_bytes)
}
