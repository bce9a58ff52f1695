//! Prices of tokens.

use super::{condition::Matcher, request_body::is_unknown};

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

impl Price {
    /// Returns whether this is the price of all models that have none of their own (`"*"`).
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.model == Matcher::Prefix(String::new())
    }

    /// Returns the cost of tokens, in millionths of the currency unit, rounded up.
    fn cost(&self, tokens: &Tokens) -> u64 {
        let cached = tokens.cached_input.min(tokens.input);
        let reasoning = tokens.reasoning.min(tokens.output);
        let cost = (tokens.input - cached) as f64 * self.input
            + cached as f64 * self.cached_input
            + (tokens.output - reasoning) as f64 * self.output
            + reasoning as f64 * self.reasoning;
        cost.ceil() as u64
    }
}

/// A price table. The first price that matches a model applies.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prices(pub Vec<Price>);

impl Prices {
    /// Returns the cost of a request, in millionths of the currency unit, rounded up. `response_model` is the model that
    /// the response named; empty if it is not known yet. These prices apply, the first that exists:
    ///
    /// - the price of the request's model, then of the response's model;
    /// - the default price;
    /// - if no model is known, the dearest price of the table, so that a request cannot avoid its price by hiding its
    ///   model;
    /// - nothing.
    #[must_use]
    pub fn cost(&self, model: &str, response_model: &str, tokens: &Tokens) -> u64 {
        let own =
            |model: &str| self.0.iter().find(|price| !price.is_default() && price.model.matches(Some(model)));
        let default = || self.0.iter().find(|price| price.is_default());
        match own(model).or_else(|| own(response_model)).or_else(default) {
            Some(price) => price.cost(tokens),
            None if is_unknown(model) && is_unknown(response_model) => {
                self.0.iter().map(|price| price.cost(tokens)).max().unwrap_or(0)
            }
            None => 0,
        }
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
        assert_eq!(prices.cost("ab", "", &tokens), 120 + 20 + 320 + 40);
        assert_eq!(prices.cost("b", "", &tokens), 0);
        // At most as many cached tokens as input tokens are charged.
        assert_eq!(prices.cost("a", "", &Tokens { input: 1, cached_input: 9, ..Tokens::default() }), 1);
    }

    #[test]
    fn a_request_cannot_avoid_its_price_by_hiding_its_model() {
        let price = |model: &str, output| {
            let model = match model.strip_suffix('*') {
                Some(prefix) => Matcher::Prefix(prefix.into()),
                None => Matcher::OneOf(vec![model.into()]),
            };
            Price { model, input: 0.0, output, cached_input: 0.0, reasoning: output }
        };
        let tokens = Tokens { output: 1, ..Tokens::default() };
        let mut prices = Prices(vec![price("cheap", 1.0), price("gpt-4o*", 10.0)]);
        let cases = [
            ("cheap", "gpt-4o-2024", 1),
            ("alias", "gpt-4o-2024", 10),
            ("(unknown)", "gpt-4o-2024", 10),
            ("", "cheap", 1),
            // Without a default price, the dearest price applies to an unknown model.
            ("(unknown)", "", 10),
            ("", "(unknown)", 10),
            // A named model without a price costs nothing, as `check-config` warns.
            ("alias", "", 0),
            ("(unknown)", "alias", 0),
        ];
        for (model, response, cost) in cases {
            assert_eq!(prices.cost(model, response, &tokens), cost, "{model} {response}");
        }
        prices.0.insert(0, price("*", 3.0));
        let cases = [("cheap", "", 1), ("alias", "gpt-4o", 10), ("alias", "", 3), ("(unknown)", "", 3)];
        for (model, response, cost) in cases {
            assert_eq!(prices.cost(model, response, &tokens), cost, "{model} {response}, default");
        }
    }
}
