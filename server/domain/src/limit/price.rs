//! Prices of tokens.

use super::condition::Matcher;

/// Token counts of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tokens {
    /// Prompt tokens, including cached tokens.
    pub input: u64,
    /// Generated tokens, including reasoning tokens.
    pub output: u64,
    /// Part of `input`: tokens read from a prompt cache.
    pub cached_input: u64,
    /// Part of `output`: tokens spent on reasoning.
    pub reasoning: u64,
}

impl Tokens {
    /// Returns input and output tokens together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.input.saturating_add(self.output)
    }
}

/// Prices of one model, in currency units per million tokens. This equals millionths of a unit per token.
#[derive(Clone, Debug, PartialEq)]
pub struct Price {
    pub model: Matcher,
    /// For input tokens that were not cached.
    pub input: f64,
    /// For output tokens that were not reasoning.
    pub output: f64,
    /// For input tokens that were cached.
    pub cached_input: f64,
    /// For output tokens that were reasoning.
    pub reasoning: f64,
}

/// A price table. The first price that matches a model applies.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prices(pub Vec<Price>);

impl Prices {
    /// Returns the cost of a request, in millionths of the currency unit, rounded up. 0 if no price matches.
    #[must_use]
    pub fn cost(&self, model: &str, tokens: &Tokens) -> u64 {
        let Some(price) = self.0.iter().find(|price| price.model.matches(Some(model))) else { return 0 };
        let cached = tokens.cached_input.min(tokens.input);
        let reasoning = tokens.reasoning.min(tokens.output);
        let cost = (tokens.input - cached) as f64 * price.input
            + cached as f64 * price.cached_input
            + (tokens.output - reasoning) as f64 * price.output
            + reasoning as f64 * price.reasoning;
        cost.ceil() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_token_has_its_price() {
        let price = |model| Price { model, input: 2.0, output: 8.0, cached_input: 0.5, reasoning: 4.0 };
        let prices = Prices(vec![price(Matcher::Prefix("a".into()))]);
        let tokens = Tokens { input: 100, output: 50, cached_input: 40, reasoning: 10 };
        assert_eq!(prices.cost("ab", &tokens), 120 + 20 + 320 + 40);
        assert_eq!(prices.cost("b", &tokens), 0);
        // At most as many cached tokens as input tokens are charged.
        assert_eq!(prices.cost("a", &Tokens { input: 1, cached_input: 9, ..Tokens::default() }), 1);
    }
}
