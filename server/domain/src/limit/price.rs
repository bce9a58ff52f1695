//! What tokens cost.

use super::matcher::Matcher;

/// Tokens of one request, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tokens {
    /// Tokens of the prompt, those read from a cache included.
    pub input: u64,
    /// Generated tokens, reasoning included.
    pub output: u64,
    /// Part of `input` read from a cache.
    pub cached_input: u64,
    /// Part of `output` spent on reasoning.
    pub reasoning: u64,
}

impl Tokens {
    /// Input and output.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.input.saturating_add(self.output)
    }
}

/// Prices of one model's tokens, in the currency for a million tokens: so, in millionths of it for one token.
#[derive(Clone, Debug, PartialEq)]
pub struct Price {
    /// Which models.
    pub model: Matcher,
    /// Input tokens not read from a cache.
    pub input: f64,
    /// Output tokens not spent on reasoning.
    pub output: f64,
    /// Input tokens read from a cache.
    pub cached_input: f64,
    /// Output tokens spent on reasoning.
    pub reasoning: f64,
}

/// A price table: the first that matches a model applies.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prices(pub Vec<Price>);

impl Prices {
    /// The cost of a request in millionths of the currency, rounded up; 0 where no price matches.
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
    fn kinds_are_priced_apart() {
        let price = |model| Price { model, input: 2.0, output: 8.0, cached_input: 0.5, reasoning: 4.0 };
        let prices = Prices(vec![price(Matcher::Prefix("a".into()))]);
        let tokens = Tokens { input: 100, output: 50, cached_input: 40, reasoning: 10 };
        assert_eq!(prices.cost("ab", &tokens), 120 + 20 + 320 + 40);
        assert_eq!(prices.cost("b", &tokens), 0);
        // More cached than there was counts as what there was.
        assert_eq!(prices.cost("a", &Tokens { input: 1, cached_input: 9, ..Tokens::default() }), 1);
    }
}
