//! Speed and size of a model server.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Speed and size of one model server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EngineParams {
    /// Number of sequences that run concurrently (vLLM's `max_num_seqs`).
    pub slots: usize,
    /// Duration of a step with an empty batch.
    pub base_ms: f64,
    /// Time that each decoding sequence adds to a step.
    pub per_seq_ms: f64,
    /// Time that each prompt token adds to the step that reads it.
    pub per_prefill_token_ms: f64,
    /// Maximum number of prompt tokens read per step.
    pub prefill_budget: u32,
    /// Capacity of the KV cache in tokens. The capacity affects only the reported usage: the engine never preempts a
    /// sequence.
    pub kv_tokens: u64,
    /// Time that each token in the KV cache of a decoding sequence adds to a step.
    pub per_kv_token_ms: f64,
    /// Length of the context after which reading a prompt token takes twice as long, because of attention to that context.
    /// 0: every prompt token takes the same time.
    pub attention_tokens: f64,
    /// Capacity of the prefix cache in tokens. 0: the engine has no prefix cache.
    pub cache_tokens: u64,
}

impl Default for EngineParams {
    fn default() -> Self {
        Self {
            slots: 32,
            base_ms: 20.0,
            per_seq_ms: 0.3,
            per_prefill_token_ms: 0.1,
            prefill_budget: 1024,
            kv_tokens: 200_000,
            per_kv_token_ms: 0.0,
            attention_tokens: 0.0,
            cache_tokens: 0,
        }
    }
}

impl EngineParams {
    /// Returns the parameters of a large model with long contexts on one server with current accelerators: 20,000 prompt
    /// tokens per second in short contexts, and a prefix cache of 3 million tokens.
    pub fn long_context() -> Self {
        Self {
            slots: 256,
            base_ms: 15.0,
            per_seq_ms: 0.05,
            per_prefill_token_ms: 0.05,
            prefill_budget: 2048,
            kv_tokens: 3_000_000,
            per_kv_token_ms: 20e-6,
            attention_tokens: 53_000.0,
            cache_tokens: 3_000_000,
        }
    }

    /// Returns the duration of a step. `read` is the sum of [`Self::read_cost`].
    pub fn step(&self, decoding: usize, decoding_kv_tokens: u64, read: f64) -> Duration {
        let ms = self.base_ms
            + self.per_seq_ms * decoding as f64
            + self.per_kv_token_ms * decoding_kv_tokens as f64
            + self.per_prefill_token_ms * read;
        Duration::from_nanos((ms * 1e6).round().max(1.0) as u64)
    }

    /// Returns what reading `tokens` after a context of `context` tokens costs, in tokens read without a context.
    pub fn read_cost(&self, context: u32, tokens: u32) -> f64 {
        let tokens = f64::from(tokens);
        if self.attention_tokens <= 0.0 {
            return tokens;
        }
        tokens * (1.0 + (f64::from(context) + tokens / 2.0) / self.attention_tokens)
    }

    /// Returns whether [`Self::capacity_rps`] holds: a step takes the same time whatever the contexts are, and no prompt
    /// is cached.
    pub fn has_known_capacity(&self) -> bool {
        self.per_kv_token_ms == 0.0 && self.attention_tokens == 0.0 && self.cache_tokens == 0
    }

    /// Returns the requests per second that one host completes while all its slots are in use. This rate is a load of
    /// 1.
    ///
    /// Each step yields at most one token per slot, and reads at most `prefill_budget` prompt tokens. The scarcer of the
    /// two determines how many steps a request costs: with long prompts and short outputs, it is the budget. Beside its
    /// part of the steps' base time, a request costs the time that its tokens add to steps.
    pub fn capacity_rps(&self, mean_prompt: f64, mean_output: f64) -> f64 {
        let decode_steps = mean_output / self.slots as f64;
        let prefill_steps = mean_prompt / f64::from(self.prefill_budget.max(1));
        let base_ms = self.base_ms * decode_steps.max(prefill_steps);
        1e3 / (base_ms + self.per_seq_ms * mean_output + self.per_prefill_token_ms * mean_prompt)
    }

    /// Returns the time to first token of a single request on an idle host.
    pub fn idle_ttft(&self, prompt: u32) -> Duration {
        let prompt = prompt.max(1);
        let mut read = 0;
        let mut total = Duration::ZERO;
        while read < prompt {
            let chunk = (prompt - read).min(self.prefill_budget.max(1));
            total += self.step(0, 0, self.read_cost(read, chunk));
            read += chunk;
        }
        total
    }
}
