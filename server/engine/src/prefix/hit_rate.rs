//! How much of prompts comes from prefix caches, over the latest responses.

/// Weight that older responses keep at each further one: a response counts for half after 69 others.
const KEPT: f64 = 0.99;

/// Tokens of the latest prompts at an endpoint. Older ones count less.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RecentTokens {
    prompt: f64,
    expected: f64,
    cached: f64,
}

/// Parts of the latest prompts, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HitRate {
    /// The part that came from the prefix cache.
    pub cached: f64,
    /// The part that the index expected there.
    pub expected: f64,
}

impl RecentTokens {
    pub(super) fn add(&mut self, prompt: f64, expected: f64, cached: f64) {
        self.prompt = self.prompt * KEPT + prompt;
        self.expected = self.expected * KEPT + expected;
        self.cached = self.cached * KEPT + cached;
    }

    /// Returns `None` if there was no prompt.
    pub(super) fn rate(self) -> Option<HitRate> {
        let part = |tokens: f64| (tokens / self.prompt).min(1.0);
        (self.prompt > 0.0).then(|| HitRate { cached: part(self.cached), expected: part(self.expected) })
    }
}

impl std::ops::Add for RecentTokens {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            prompt: self.prompt + other.prompt,
            expected: self.expected + other.expected,
            cached: self.cached + other.cached,
        }
    }
}
