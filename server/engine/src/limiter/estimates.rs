//! Estimates the usage of a request. Learns from the usage of earlier requests, per model.

use std::{collections::HashMap, sync::Arc};

use evenkeel_domain::limit::{Generation, LimitRules, RequestBody, price::Tokens};
use parking_lot::{Mutex, RwLock};

use crate::mean::Mean;

/// Estimated output tokens of an answer of an unknown model.
const OUTPUT_TOKENS: f64 = 512.0;
/// Estimated bytes of text per token for an unknown model. English text has about 4.
const BYTES_PER_TOKEN: f64 = 4.0;
/// Minimum weight of a new request in a mean. The first requests have equal weights.
const WEIGHT_MIN: f64 = 0.05;
/// How far a request can be from the mean so far, as a factor. What is further away counts as if it were that far: one
/// request changes a mean by at most 15 %, whatever it reports.
const OUTLIER: f64 = 4.0;
/// Bounds of a learned ratio. All languages and tokenizers are within these bounds, and a single unusual request
/// changes the mean little.
const BYTES_PER_TOKEN_LEARNED: std::ops::RangeInclusive<f64> = 1.0..=16.0;
/// Most expected output tokens of an answer. Models generate no more, so neither a wrong count in a response nor a maximum
/// that a request sets raises the expectation further.
const OUTPUT_TOKENS_MAX: f64 = 262_144.0;
/// Number of requests after which a model counts as known. Until then, the configured seed applies.
const KNOWN_FROM: u32 = 5;
/// Maximum number of models with estimates of their own. Further models remain unknown.
const MODELS_MAX: usize = 1024;

/// The means of one model.
#[derive(Clone, Copy, Debug, Default)]
struct Learned {
    /// Output tokens of one answer.
    output_tokens: Mean,
    bytes_per_input_token: Mean,
    bytes_per_output_token: Mean,
}

/// Adds a value to a mean. `prior` is what was expected before the first.
fn learn(mean: &mut Mean, value: f64, prior: f64) {
    let typical = if mean.count == 0 { prior } else { mean.value }.max(1.0);
    mean.add(value.clamp(typical / OUTLIER, typical * OUTLIER), WEIGHT_MIN);
}

fn known(mean: Mean) -> Option<f64> {
    (mean.count >= KNOWN_FROM).then_some(mean.value)
}

/// The estimated use of one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    pub input: f64,
    /// Output tokens of all answers together.
    pub output: f64,
    /// Maximum number of output tokens that the request allows for all answers together. 0: no maximum.
    pub output_max: u64,
    pub generation: Generation,
}

impl Estimate {
    /// Returns the tokens to reserve: the estimate times `margin`, but no more output than the request allows.
    #[must_use]
    pub fn with_margin(&self, margin: f64) -> Tokens {
        let output = (self.output * margin).ceil() as u64;
        let output = if self.output_max > 0 { output.min(self.output_max) } else { output };
        Tokens { input: (self.input * margin).ceil() as u64, output, ..Tokens::default() }
    }
}

/// A request from which estimates learn: the first settlement of a request that this sidecar's tickets verify.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub prompt_bytes: u64,
    /// Number of answers that the request asked for, at least 1.
    pub answers: u64,
    /// Maximum number of output tokens that the request allowed for all answers together. 0: no maximum.
    pub output_max: u64,
    /// Size of the generated text, in bytes.
    pub output_bytes: u64,
    /// The tokens that the response reported.
    pub tokens: Tokens,
}

/// The estimates of this sidecar, by model.
#[derive(Default)]
pub struct Estimates {
    models: RwLock<HashMap<Box<str>, Arc<Mutex<Learned>>>>,
}

impl Estimates {
    /// Estimates the use of a request.
    #[must_use]
    pub fn estimate(&self, rules: &LimitRules, model: &str, body: &RequestBody) -> Estimate {
        if body.generation == Generation::Nothing {
            return Estimate { input: 0.0, output: 0.0, output_max: 0, generation: body.generation };
        }
        let learned = self.models.read().get(model).map(|learned| *learned.lock()).unwrap_or_default();
        let seed = rules.models.iter().find(|seed| seed.model.matches(Some(model)));
        let bytes = known(learned.bytes_per_input_token);
        let bytes = bytes.or(seed.and_then(|seed| seed.bytes_per_token)).unwrap_or(BYTES_PER_TOKEN);
        let expected = known(learned.output_tokens).or(seed.and_then(|seed| seed.output_tokens));
        let output = match (expected, body.max_output_tokens) {
            (None, 0) => OUTPUT_TOKENS,
            // For an unknown model, assumes the maximum that the request allows.
            (None, most) => (most as f64).min(OUTPUT_TOKENS_MAX),
            (Some(expected), 0) => expected,
            (Some(expected), most) => expected.min(most as f64),
        };
        Estimate {
            input: body.prompt_bytes as f64 / bytes.max(0.1),
            output: output * body.answers() as f64,
            output_max: body.max_output_tokens.saturating_mul(body.answers()),
            generation: body.generation,
        }
    }

    /// Estimates the output tokens in `output_bytes` of generated text.
    #[must_use]
    pub fn output_tokens_of(&self, model: &str, output_bytes: u64) -> u64 {
        let learned = self.models.read().get(model).map(|learned| *learned.lock()).unwrap_or_default();
        let bytes = known(learned.bytes_per_output_token).unwrap_or(BYTES_PER_TOKEN);
        (output_bytes as f64 / bytes.max(0.1)).ceil() as u64
    }

    /// Learns from the reported use of a request.
    pub fn learn(&self, rules: &LimitRules, model: &str, sample: &Sample) {
        let Sample { prompt_bytes, answers, output_max, output_bytes, tokens } = *sample;
        let known = self.models.read().get(model).map(Arc::clone);
        let learned = match known {
            Some(learned) => learned,
            None => {
                let mut models = self.models.write();
                if models.len() >= MODELS_MAX && !models.contains_key(model) {
                    return;
                }
                Arc::clone(models.entry(model.into()).or_default())
            }
        };
        let seed = rules.models.iter().find(|seed| seed.model.matches(Some(model)));
        let prior_output = seed.and_then(|seed| seed.output_tokens).unwrap_or(OUTPUT_TOKENS);
        let prior_bytes = seed.and_then(|seed| seed.bytes_per_token).unwrap_or(BYTES_PER_TOKEN);
        // No server generates more than the request allows.
        let most = if output_max > 0 { tokens.output.min(output_max) } else { tokens.output };
        let mut learned = learned.lock();
        let output = (most as f64 / answers as f64).min(OUTPUT_TOKENS_MAX);
        self::learn(&mut learned.output_tokens, output, prior_output);
        let ratio = |bytes: u64, tokens: u64| {
            let (least, most) = (BYTES_PER_TOKEN_LEARNED.start(), BYTES_PER_TOKEN_LEARNED.end());
            (bytes as f64 / tokens as f64).clamp(*least, *most)
        };
        if prompt_bytes > 0 && tokens.input > 0 {
            self::learn(&mut learned.bytes_per_input_token, ratio(prompt_bytes, tokens.input), prior_bytes);
        }
        // Counts all output, including hidden reasoning.
        if output_bytes > 0 && tokens.output > 0 {
            let bytes = ratio(output_bytes, tokens.output);
            self::learn(&mut learned.bytes_per_output_token, bytes, BYTES_PER_TOKEN);
        }
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_domain::limit::{Matcher, ModelSeed};

    use super::*;

    #[test]
    fn estimates_are_learned_and_bounded() {
        let mut rules = LimitRules::default();
        let estimates = Estimates::default();
        let body = |most, choices| RequestBody {
            prompt_bytes: 400,
            max_output_tokens: most,
            choices,
            ..RequestBody::default()
        };
        let estimate = |rules: &LimitRules, most| estimates.estimate(rules, "m", &body(most, 1));
        let estimated = |input, output, output_max| Estimate {
            input,
            output,
            output_max,
            generation: Generation::Immediate,
        };
        assert_eq!(estimate(&rules, 0), estimated(100.0, 512.0, 0));
        assert_eq!(estimate(&rules, 9000).output, 9000.0);
        assert_eq!(estimate(&rules, u64::MAX).output, OUTPUT_TOKENS_MAX);
        let seed = ModelSeed {
            model: Matcher::Prefix("m".into()),
            output_tokens: Some(50.0),
            bytes_per_token: Some(2.0),
        };
        rules.models.push(seed);
        assert_eq!(estimate(&rules, 9000), estimated(200.0, 50.0, 9000));
        for _ in 0..KNOWN_FROM {
            let tokens = Tokens { input: 50, output: 110, reasoning: 10, ..Tokens::default() };
            estimates.learn(&rules, "m", &sample(400, 300, tokens));
        }
        let learned = estimate(&rules, 200);
        assert_eq!(learned, estimated(50.0, 110.0, 200));
        assert_eq!(learned.with_margin(2.0), Tokens { input: 100, output: 200, ..Tokens::default() });
        assert_eq!(estimates.output_tokens_of("m", 30), 11);
        // Each answer of a request has its own output.
        assert_eq!(estimates.estimate(&rules, "m", &body(0, 8)), estimated(50.0, 880.0, 0));
        assert_eq!(estimates.estimate(&rules, "m", &body(100, 8)), estimated(50.0, 800.0, 800));
        assert_eq!(estimates.estimate(&rules, "new", &body(100, 8)).output, 800.0);
        assert_eq!(estimates.estimate(&rules, "new", &body(0, 8)).output, 8.0 * OUTPUT_TOKENS);
        let most = estimates.estimate(&rules, "m", &body(u64::MAX, u64::MAX));
        assert_eq!(most.output_max, u64::MAX);
        // The mean adapts slowly to a change.
        for _ in 0..200 {
            let tokens = Tokens { output: 20, ..Tokens::default() };
            estimates.learn(&rules, "m", &Sample { answers: 2, ..sample(0, 0, tokens) });
        }
        assert!((estimate(&rules, 0).output - 10.0).abs() < 1.0);
    }

    fn sample(prompt_bytes: u64, output_bytes: u64, tokens: Tokens) -> Sample {
        Sample { prompt_bytes, answers: 1, output_max: 0, output_bytes, tokens }
    }

    fn outputs(estimates: &Estimates, output: u64, times: usize) -> f64 {
        let rules = LimitRules::default();
        for _ in 0..times {
            let tokens = Tokens { input: 100, output, ..Tokens::default() };
            estimates.learn(&rules, "m", &sample(400, 4 * output.min(1000), tokens));
        }
        estimates.estimate(&rules, "m", &RequestBody::default()).output
    }

    /// A handful of settlements of a billion tokens raised the estimate of every request of a model.
    #[test]
    fn a_handful_of_false_reports_changes_little() {
        let estimates = Estimates::default();
        assert_eq!(outputs(&estimates, 400, 50), 400.0);
        assert!(outputs(&estimates, 1_000_000_000, 1) < 1.16 * 400.0);
        assert!(outputs(&estimates, 1_000_000_000, 4) < 2.1 * 400.0);
        assert!(outputs(&estimates, 400, 100) < 1.05 * 400.0, "true reports correct it");
        // Nor do reports of nothing make reservations useless.
        assert!(outputs(&estimates, 0, 5) > 0.8 * 400.0);
        // The first reports of a new model are compared with what was expected.
        let new = Estimates::default();
        assert!(outputs(&new, 1_000_000_000, 1) <= 4.0 * OUTPUT_TOKENS);
        assert!(outputs(&new, 400, 40) < 2.0 * 400.0);
        // A model with long answers is still learned.
        assert!(outputs(&Estimates::default(), 30_000, 40) > 0.8 * 30_000.0);
    }

    #[test]
    fn a_request_bounds_what_is_learned_from_it() {
        let (estimates, rules) = (Estimates::default(), LimitRules::default());
        for _ in 0..50 {
            let tokens = Tokens { input: 1, output: 90_000_000, ..Tokens::default() };
            let sample = Sample { output_max: 200, answers: 2, ..sample(0, 0, tokens) };
            estimates.learn(&rules, "m", &sample);
        }
        let body = RequestBody::default();
        let output = estimates.estimate(&rules, "m", &body).output;
        assert!((output - 100.0).abs() < 10.0, "{output}");
    }

    #[test]
    fn models_are_bounded() {
        let estimates = Estimates::default();
        for i in 0..MODELS_MAX + 10 {
            let tokens = Tokens { input: 1, output: 1, ..Tokens::default() };
            estimates.learn(&LimitRules::default(), &format!("m{i}"), &sample(1, 1, tokens));
        }
        assert_eq!(estimates.models.read().len(), MODELS_MAX);
    }
}
