//! The choice of an endpoint: by requests in flight, or by the work that waits there.
//!
//! A server reads a prompt before it answers, and prompts differ by a factor of thousands. The work of an endpoint is the
//! number of prompt tokens that it has not read yet: those of its requests without a first token, without the tokens that
//! its prefix cache has.

use std::sync::Arc;

use crate::{Endpoint, Roster};

/// How a pool chooses among its endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// The endpoint with the fewest requests in flight by weight.
    #[default]
    LeastRequest,
    /// The endpoint with the fewest unread prompt tokens by weight. The same as [`Self::LeastRequest`] while the sizes of
    /// prompts are unknown.
    LeastWork,
}

/// Unread tokens that each request in flight counts for, because it also takes a part of the server while it generates.
pub const REQUEST_TOKENS: u64 = 200;
/// How many times the prompt of the request that is placed counts, compared to the tokens that wait already. Above 1,
/// because a prompt that a cache has costs nobody anything, wherever it waits.
pub const PROMPT_FACTOR: u64 = 2;
/// Maximum size of a prompt in tokens, above the context length of all models. A larger size counts as this, so that one
/// wrong size does not keep an endpoint without requests.
pub const PROMPT_TOKENS_MAX: u64 = 1 << 24;

/// The prompt of a request that is placed by work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    /// Size in tokens; at most [`PROMPT_TOKENS_MAX`].
    pub tokens: u64,
    /// Endpoints whose prefix cache probably has the beginning of the prompt, and how many tokens of it; sorted by address.
    pub cached: Vec<(Arc<str>, u64)>,
}

impl Prompt {
    /// Returns the tokens that an endpoint must read.
    #[must_use]
    pub fn unread_at(&self, address: &str) -> u64 {
        let cached = self.cached.binary_search_by(|(other, _)| (**other).cmp(address));
        self.tokens - cached.map_or(0, |at| self.cached[at].1.min(self.tokens))
    }
}

/// What an endpoint has to do at present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    pub in_flight: u64,
    /// Prompt tokens that the endpoint has not read yet.
    pub unread: u64,
}

impl std::ops::AddAssign for Load {
    fn add_assign(&mut self, other: Self) {
        self.in_flight += other.in_flight;
        self.unread += other.unread;
    }
}

/// The endpoint that a request goes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice<'a> {
    pub endpoint: &'a Endpoint,
    /// Tokens of the prompt that the endpoint must read. 0 if the pool does not choose by work.
    pub unread: u64,
}

/// Chooses the endpoint with the least score among the endpoints below their cap. Returns `None` if every endpoint is at
/// its cap. If several endpoints have the least score, sorts them: those with a part of the prompt in their cache come first,
/// and otherwise weight, cap and address decide. Chooses the one at the index `share(tie)` times their number, rounded down.
///
/// The score of an endpoint with `n` requests in flight is `(n + 1) / weight`, or with a prompt
/// `(unread + REQUEST_TOKENS · (n + 1) + PROMPT_FACTOR · (tokens − cached)) / weight`, where `cached` tokens of the prompt
/// are in the endpoint's prefix cache. docs/choosing.md gives the reasons and the figures.
///
/// This is the reference for `lua/commit.lua` and `lua/commit_ordered.lua`, which must choose the same endpoint. All compute the score as one IEEE 754
/// division.
pub fn choose<'a>(
    roster: &'a Roster,
    tie: u32,
    prompt: Option<&Prompt>,
    load: impl Fn(&str) -> Load,
) -> Option<Choice<'a>> {
    let mut least = f64::INFINITY;
    let mut equals: Vec<Choice<'a>> = Vec::new();
    for endpoint in roster.in_class_order() {
        let Load { in_flight, unread: waiting } = load(&endpoint.address);
        if endpoint.cap > 0 && in_flight >= u64::from(endpoint.cap) {
            continue;
        }
        let unread = prompt.map_or(0, |prompt| prompt.unread_at(&endpoint.address));
        let sum = match prompt {
            None => in_flight + 1,
            Some(_) => waiting + REQUEST_TOKENS * (in_flight + 1) + PROMPT_FACTOR * unread,
        };
        #[allow(clippy::cast_precision_loss)]
        let score = sum as f64 / endpoint.weight;
        if score < least {
            least = score;
            equals.clear();
        }
        if score <= least {
            equals.push(Choice { endpoint, unread });
        }
    }
    if let Some(prompt) = prompt {
        equals.sort_by_key(|choice| choice.unread == prompt.tokens);
    }
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let index = (share(tie) * equals.len() as f64) as usize;
    (!equals.is_empty()).then(|| equals.swap_remove(index))
}

/// Returns the share, from 0 to below 1, of the endpoints with equal scores that come before the chosen one.
///
/// With the same share, the choices of a batch are neighbours, which the scripts read with one command. Each single choice is
/// as random as its tie.
#[must_use]
pub fn share(tie: u32) -> f64 {
    f64::from(tie) / 4_294_967_296.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roster(endpoints: &[(&str, f64, u32)]) -> Roster {
        Roster::new(
            endpoints
                .iter()
                .map(|&(address, weight, cap)| Endpoint { address: address.into(), weight, cap })
                .collect(),
        )
    }

    fn pick(roster: &Roster, tie: u32, loads: &[(&str, u64)]) -> Option<String> {
        let in_flight = |address: &str| loads.iter().find(|(x, _)| *x == address).map_or(0, |(_, n)| *n);
        choose(roster, tie, None, |address| Load { in_flight: in_flight(address), unread: 0 })
            .map(|choice| choice.endpoint.address.to_string())
    }

    fn place(
        roster: &Roster,
        tokens: u64,
        cached: &[(&str, u64)],
        loads: &[(&str, u64, u64)],
    ) -> Option<(String, u64)> {
        let cached = cached.iter().map(|&(address, n)| (address.into(), n)).collect();
        let load = |address: &str| {
            let found = loads.iter().find(|(x, ..)| *x == address);
            found.map_or(Load::default(), |&(_, in_flight, unread)| Load { in_flight, unread })
        };
        choose(roster, 0, Some(&Prompt { tokens, cached }), load)
            .map(|choice| (choice.endpoint.address.to_string(), choice.unread))
    }

    #[test]
    fn the_least_loaded_endpoint_by_weight_is_chosen() {
        let r = roster(&[("a", 1.0, 0), ("b", 2.0, 0)]);
        assert_eq!(pick(&r, 0, &[]).as_deref(), Some("b"));
        assert_eq!(pick(&r, 0, &[("b", 2)]).as_deref(), Some("a"));
        assert_eq!(pick(&r, 0, &[("a", 1), ("b", 2)]).as_deref(), Some("b"));
    }

    #[test]
    fn the_tie_number_selects_a_share_of_the_equals() {
        let r = roster(&[("c", 1.0, 0), ("a", 1.0, 0), ("b", 1.0, 0)]);
        let third = u32::MAX / 3;
        for (tie, chosen) in [(0, "a"), (third, "a"), (third + 1, "b"), (2 * third + 1, "c"), (u32::MAX, "c")]
        {
            assert_eq!(pick(&r, tie, &[]).as_deref(), Some(chosen), "{tie}");
        }
        assert_eq!(pick(&r, 1 << 31, &[("b", 1)]).as_deref(), Some("c"));
    }

    #[test]
    fn equals_are_sorted_by_cache_weight_cap_and_address() {
        let order = |r: &Roster, prompt: Option<&Prompt>, loads: &[(&str, u64, u64)]| {
            let n = loads.len() as u64;
            let load = |address: &str| {
                let &(_, in_flight, unread) = loads.iter().find(|(x, ..)| *x == address).unwrap();
                Load { in_flight, unread }
            };
            let tie = |i: u64| u32::try_from(((i << 32) + (1 << 31)) / n).unwrap();
            (0..n)
                .map(|i| choose(r, tie(i), prompt, load).unwrap().endpoint.address.to_string())
                .collect::<Vec<_>>()
        };
        let r = roster(&[("a", 2.0, 0), ("b", 1.0, 9), ("c", 1.0, 0), ("d", 1.0, 9)]);
        let loads = [("a", 3, 0), ("b", 1, 0), ("c", 1, 0), ("d", 1, 0)];
        assert_eq!(order(&r, None, &loads), ["c", "b", "d", "a"]);
        let prompt = Prompt { tokens: 1000, cached: vec![("a".into(), 1000), ("d".into(), 100)] };
        // (unread + 200 · (in flight + 1) + 2 · tokens to read) / weight is 2400 for all.
        let loads = [("a", 0, 4600), ("b", 0, 200), ("c", 0, 200), ("d", 0, 400)];
        assert_eq!(order(&r, Some(&prompt), &loads), ["d", "a", "c", "b"]);
    }

    #[test]
    fn full_endpoints_are_not_chosen() {
        let r = roster(&[("a", 1.0, 1), ("b", 1.0, 2)]);
        assert_eq!(pick(&r, 0, &[("a", 1), ("b", 1)]).as_deref(), Some("b"));
        assert_eq!(pick(&r, 0, &[("a", 1), ("b", 2)]), None);
        assert_eq!(pick(&roster(&[]), 0, &[]), None);
    }

    #[test]
    fn a_prompt_goes_where_it_waits_for_the_fewest_tokens() {
        let r = roster(&[("a", 1.0, 0), ("b", 1.0, 0)]);
        let chosen = |address: &str, unread| Some((address.to_owned(), unread));
        // Ten short requests are less work than one long prompt.
        assert_eq!(place(&r, 100, &[], &[("a", 10, 0), ("b", 1, 50_000)]), chosen("a", 100));
        // A cache is worth a wait, but not any wait.
        let cached = [("b", 8000)];
        assert_eq!(place(&r, 9000, &cached, &[("b", 1, 15_000)]), chosen("b", 1000));
        assert_eq!(place(&r, 9000, &cached, &[("b", 1, 16_000)]), chosen("a", 9000));
        // An index that is out of date may claim more than the prompt has.
        assert_eq!(place(&r, 100, &cached, &[]), chosen("b", 0));
        let heavy = roster(&[("a", 1.0, 0), ("b", 2.0, 0)]);
        assert_eq!(place(&heavy, 1000, &[], &[("a", 0, 0), ("b", 0, 2000)]), chosen("b", 1000));
        assert_eq!(place(&heavy, 1000, &[], &[("a", 0, 0), ("b", 0, 3000)]), chosen("a", 1000));
    }

    /// With unknown sizes, the rule is least request.
    #[test]
    fn without_prompts_the_fewest_requests_decide() {
        let r = roster(&[("a", 1.0, 3), ("b", 3.0, 0), ("c", 0.7, 0)]);
        for loads in [[0, 0, 0], [1, 2, 0], [1, 5, 0], [2, 8, 1], [3, 9, 2]] {
            let loads = [("a", loads[0], 0), ("b", loads[1], 0), ("c", loads[2], 0)];
            let counts: Vec<_> = loads.iter().map(|&(address, n, _)| (address, n)).collect();
            assert_eq!(place(&r, 0, &[], &loads).map(|(address, _)| address), pick(&r, 0, &counts));
        }
    }
}
