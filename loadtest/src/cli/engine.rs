//! The parameters of the mock model servers.

use clap::{Args, ValueEnum};
use evenkeel_loadtest::{demo, engine::EngineParams};

/// Sets of parameters. Options change single parameters of a set.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum EngineSet {
    /// The demo's: 20 slots, steps of 30 ms, no prefix cache
    Demo,
    /// A large model for long contexts: 256 slots, steps of 15 ms, reading that slows with the context, decoding that slows
    /// with the KV cache, a prefix cache of 3 million tokens
    LongContext,
}

/// Parameters of the mock model servers.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Model servers")]
pub(crate) struct EngineArgs {
    /// Set of parameters that the following options change (default: long_context for `slo`, otherwise demo)
    #[arg(long, value_enum)]
    engine: Option<EngineSet>,
    /// Number of sequences that one host runs concurrently (vLLM's max_num_seqs)
    #[arg(long)]
    slots: Option<usize>,
    /// Duration of a step with an empty batch, in milliseconds
    #[arg(long)]
    base_ms: Option<f64>,
    /// Milliseconds that each decoding sequence adds to a step
    #[arg(long)]
    per_seq_ms: Option<f64>,
    /// Milliseconds that each prompt token adds to the step that reads it
    #[arg(long)]
    per_prefill_token_ms: Option<f64>,
    /// Maximum number of prompt tokens read per step
    #[arg(long)]
    prefill_budget: Option<u32>,
    /// Capacity of the KV cache in tokens (affects only the reported usage)
    #[arg(long)]
    kv_tokens: Option<u64>,
    /// Milliseconds that each token in the KV cache of a decoding sequence adds to a step
    #[arg(long)]
    per_kv_token_ms: Option<f64>,
    /// Context, in tokens, after which reading a prompt token takes twice as long; 0: it always takes the same time
    #[arg(long)]
    attention_tokens: Option<f64>,
    /// Capacity of the prefix cache in tokens; 0: no prefix cache
    #[arg(long)]
    cache_tokens: Option<u64>,
}

impl EngineArgs {
    /// Returns the parameters. Without an option, the set is `default`.
    pub(crate) fn params(&self, default: EngineSet) -> EngineParams {
        let set = match self.engine.unwrap_or(default) {
            EngineSet::Demo => demo::plan().engine,
            EngineSet::LongContext => EngineParams::long_context(),
        };
        EngineParams {
            slots: self.slots.unwrap_or(set.slots),
            base_ms: self.base_ms.unwrap_or(set.base_ms),
            per_seq_ms: self.per_seq_ms.unwrap_or(set.per_seq_ms),
            per_prefill_token_ms: self.per_prefill_token_ms.unwrap_or(set.per_prefill_token_ms),
            prefill_budget: self.prefill_budget.unwrap_or(set.prefill_budget),
            kv_tokens: self.kv_tokens.unwrap_or(set.kv_tokens),
            per_kv_token_ms: self.per_kv_token_ms.unwrap_or(set.per_kv_token_ms),
            attention_tokens: self.attention_tokens.unwrap_or(set.attention_tokens),
            cache_tokens: self.cache_tokens.unwrap_or(set.cache_tokens),
        }
    }
}
