//! Prefix and session affinity: which endpoints probably have the beginning of a prompt in their caches.
//!
//! Each sidecar has an [`index`] of the prefixes that the endpoints of a pool have lately read. It records its own
//! placements, and those that the other sidecars [share](sharing) through the store. The index may be late or wrong: it
//! only shifts the choice, whose loads are exact. [`trust`] learns from responses which entries still hold.

use std::{collections::HashMap, sync::Arc};

use evenkeel_domain::{
    HolderId, LeaseId,
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
mod placements;
mod sharing;
#[cfg(test)]
mod tests;
mod trust;

use generations::Generations;
pub use hit_rate::HitRate;
use hit_rate::RecentTokens;
use index::{Index, Match};
use placements::{Placement, Unshared};
use trust::Trust;

/// Maximum number of requests in flight whose placements the sidecar remembers, to learn from their responses.
const EXPECTED_MAX: usize = 65_536;
/// Part of a cache's size below which an entry is as good as new, so that repeating it would bring nothing.
const FRESH_PART: u64 = 8;
/// Number of consecutive responses without any of the expected tokens after which an endpoint counts as restarted.
const MISSES_MAX: usize = 3;
/// A response without this part of the expected tokens is a miss.
const MISS_PART: f64 = 0.1;

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
    /// The latest responses of an endpoint, if they were all misses: age and hit of each.
    misses: HashMap<Arc<str>, Vec<(u64, f64)>>,
    losses: u64,
    /// The same sums for each endpoint, over the latest responses.
    recent: HashMap<Arc<str>, RecentTokens>,
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
            misses: HashMap::new(),
            losses: 0,
            recent: HashMap::new(),
        };
        let fresh = cache.tokens / FRESH_PART;
        Some(Self { per_consumer: cache.per_consumer, fresh, affinity, state: Mutex::new(state) })
    }

    /// Returns what the index knows about a prompt of that many tokens.
    pub(crate) fn look_up(&self, prefix: PromptPrefix, tokens: u64) -> LookUp {
        let PromptPrefix { mut hashes, bytes, prompt_bytes, model, consumer, session } = prefix;
        let salt = digest_of(&[&model, if self.per_consumer { &consumer } else { "" }]);
        hashes.iter_mut().for_each(|hash| *hash ^= salt);
        let affinity = self.affinity.filter(|_| !session.is_empty());
        let session = affinity.map(|_| digest_of(&["session", &consumer, &session]));
        let mut state = self.state.lock();
        let State { index, trust, used_at, .. } = &mut *state;
        *used_at = Some(Instant::now());
        let mut matches: Vec<Expected> = Vec::new();
        for Match { endpoint, depth, age } in index.look_up(&hashes) {
            let part = (f64::from(bytes[depth]) / prompt_bytes.max(1) as f64).min(1.0);
            let losses = index.losses(&endpoint);
            matches.push(Expected { endpoint, part, age, counted_on: part * trust.at(age), losses });
        }
        let at_session = session.and_then(|session| index.look_up(&[session]).pop());
        let mut stays_at = None;
        match (affinity, at_session) {
            (Some(SessionAffinity::Hard), Some(Match { endpoint, .. })) => stays_at = Some(endpoint),
            (Some(SessionAffinity::Soft { tokens: bonus }), Some(Match { endpoint, age, .. })) => {
                let part = (bonus as f64 / tokens.max(1) as f64).min(1.0);
                let losses = index.losses(&endpoint);
                let expected = Expected { endpoint, part, age, counted_on: part * trust.at(age), losses };
                match matches.iter_mut().find(|other| other.endpoint == expected.endpoint) {
                    Some(other) if other.counted_on >= expected.counted_on => {}
                    Some(other) => *other = expected,
                    None => matches.push(expected),
                }
            }
            _ => {}
        }
        drop(state);
        let in_cache = |expected: &Expected| {
            let in_cache = (expected.counted_on * tokens as f64) as u64;
            (in_cache > 0).then(|| (Arc::clone(&expected.endpoint), in_cache))
        };
        let mut cached: Vec<(Arc<str>, u64)> = matches.iter().filter_map(in_cache).collect();
        cached.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        LookUp { cached, stays_at, keys: hashes, session, matches }
    }

    /// Records that a prompt was placed.
    pub(crate) fn placed(&self, holder: &HolderId, lease: LeaseId, placed: Placed) {
        let Placed { endpoint, unread, found } = placed;
        let expected = found.matches.into_iter().find(|expected| expected.endpoint == endpoint);
        let expected =
            expected.unwrap_or_else(|| Expected { endpoint: Arc::clone(&endpoint), ..Expected::default() });
        let mut state = self.state.lock();
        let keys = state.index.place(&endpoint, found.keys, unread, self.fresh);
        let session = found.session.filter(|key| state.index.move_session(&endpoint, *key, self.fresh));
        state.unshared.push(Placement { endpoint, unread, keys, session });
        state.expected.insert((holder.clone(), lease), expected);
    }

    /// Learns from the response to a placed prompt.
    pub(crate) fn responded(&self, holder: &HolderId, lease: LeaseId, read: Option<ReadTokens>) {
        let mut state = self.state.lock();
        let Some(expected) = state.expected.remove(&(holder.clone(), lease)) else { return };
        let Some(read) = read.filter(|read| read.input > 0) else { return };
        state.trust.states_cached |= read.is_stated || read.cached > 0;
        if !state.trust.states_cached {
            return;
        }
        let input = read.input as f64;
        state.figures.prompt_tokens += read.input;
        state.figures.cached_tokens += read.cached.min(read.input);
        state.figures.expected_tokens += (expected.counted_on * input) as u64;
        let recent = state.recent.entry(Arc::clone(&expected.endpoint)).or_default();
        recent.add(input, expected.counted_on * input, read.cached.min(read.input) as f64);
        if expected.part <= 0.0 {
            return;
        }
        let hit = (read.cached as f64 / (expected.part * input)).min(1.0);
        let Expected { endpoint, part, age, losses, .. } = expected;
        debug!(%endpoint, part, age, hit, "a prompt was answered");
        // The endpoint has lost the cache that this prompt was placed for.
        if losses != state.index.losses(&endpoint) {
            return;
        }
        if hit < MISS_PART && state.trust.at(age) > 0.5 {
            let misses = state.misses.entry(Arc::clone(&endpoint)).or_default();
            misses.push((age, hit));
            if misses.len() >= MISSES_MAX {
                state.misses.remove(&endpoint);
                state.index.forget(&endpoint);
                info!(%endpoint, "an endpoint seems to have restarted: its prefix cache has lost what was expected");
                state.losses += 1;
                state.unshared.push_loss(endpoint);
            }
        } else {
            // The endpoint has its cache, so the misses before this response teach how long it remembers.
            let misses = state.misses.remove(&endpoint).unwrap_or_default();
            for (age, hit) in misses.into_iter().chain([(age, hit)]) {
                state.trust.learn(age, hit);
            }
        }
    }

    /// Forgets what the caches of endpoints have that are not in the pool any more.
    pub(crate) fn retain(&self, is_listed: impl Fn(&str) -> bool) {
        let mut state = self.state.lock();
        state.recent.retain(|address, _| is_listed(address));
        state.misses.retain(|address, _| is_listed(address));
        state.index.retain(is_listed);
    }

    /// Returns the hit rate of the pool and of each endpoint, over the latest responses that stated cached tokens. Other
    /// endpoints are absent.
    #[must_use]
    pub fn hit_rates(&self) -> (Option<HitRate>, HashMap<Arc<str>, HitRate>) {
        let state = self.state.lock();
        let all = state.recent.values().fold(RecentTokens::default(), |all, one| all + *one);
        let each = state.recent.iter().filter_map(|(address, one)| Some((Arc::clone(address), one.rate()?)));
        (all.rate(), each.collect())
    }

    /// Returns the size of the index, and how well its expectations came true so far.
    #[must_use]
    pub fn figures(&self) -> PrefixFigures {
        let state = self.state.lock();
        PrefixFigures { entries: state.index.len(), losses: state.losses, ..state.figures }
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
