//! The service level: how soon a request must have its first token.

use serde::{Deserialize, Serialize};

use crate::workload::Request;

/// A deadline for first tokens that grows with the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slo {
    /// Deadline of an empty prompt, in seconds.
    pub base_s: f64,
    /// Prompt tokens for which the deadline grows by one second.
    pub tokens_per_s: f64,
}

impl Default for Slo {
    fn default() -> Self {
        Self { base_s: 2.0, tokens_per_s: 10_000.0 }
    }
}

impl Slo {
    /// Returns the longest acceptable time to first token, in milliseconds.
    pub fn deadline_ms(&self, prompt: u32) -> f64 {
        (self.base_s + f64::from(prompt) / self.tokens_per_s) * 1e3
    }

    /// Returns the fraction of the requests that met their deadline. `ttft_ms` has the time to first token of each request,
    /// `None` for a failed one, which missed its deadline. Without requests, returns 0.
    pub fn attainment(&self, requests: &[Request], ttft_ms: &[Option<f64>]) -> f64 {
        let is_met = |(request, ttft): &(&Request, &Option<f64>)| {
            ttft.is_some_and(|ms| ms <= self.deadline_ms(request.prompt))
        };
        let met = requests.iter().zip(ttft_ms).filter(is_met).count();
        met as f64 / requests.len().max(1) as f64
    }
}

impl std::fmt::Display for Slo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "first token within {} s + prompt / {} tokens per s", self.base_s, self.tokens_per_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_grows_with_the_prompt_and_failed_requests_miss_it() {
        let slo = Slo::default();
        assert_eq!([slo.deadline_ms(0), slo.deadline_ms(20_000)], [2000.0, 4000.0]);
        let requests = [0, 20_000, 0, 0].map(|prompt| Request { prompt, ..Request::default() });
        let ttft = [Some(2000.0), Some(3900.0), Some(2000.1), None];
        assert_eq!(slo.attainment(&requests, &ttft), 0.5);
        assert_eq!(slo.attainment(&[], &[]), 0.0);
        assert_eq!(slo.to_string(), "first token within 2 s + prompt / 10000 tokens per s");
    }
}
