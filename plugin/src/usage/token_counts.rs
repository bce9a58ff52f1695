//! Token counts, under the names that providers give them.

use evenkeel_proto::v1::Tokens;

/// Token counts of a response; `None` for each count that the response did not report.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TokenCounts {
    /// The whole prompt, as reported by OpenAI chat, Gemini and Ollama.
    pub(super) prompt: Option<u64>,
    /// The prompt; Anthropic excludes `cache_read` and `cache_written` from it.
    pub(super) input: Option<u64>,
    pub(super) cache_read: Option<u64>,
    pub(super) cache_written: Option<u64>,
    /// Part of the prompt that was read from a cache.
    pub(super) cached: Option<u64>,
    /// Tokens of Gemini's tool call prompts; `prompt` does not include them.
    pub(super) tool_prompt: Option<u64>,
    pub(super) output: Option<u64>,
    /// Reasoning tokens that are part of `output`.
    pub(super) reasoning: Option<u64>,
    /// Gemini's reasoning tokens; `output` does not include them.
    pub(super) thoughts: Option<u64>,
    /// Prompt and output together, as reported by OpenAI and compatible servers.
    pub(super) total: Option<u64>,
}

impl TokenCounts {
    /// Returns the larger value of each count. The counts of a stream only grow, but some servers send zeros in
    /// between.
    pub(super) fn merge(self, other: TokenCounts) -> TokenCounts {
        TokenCounts {
            prompt: self.prompt.max(other.prompt),
            input: self.input.max(other.input),
            cache_read: self.cache_read.max(other.cache_read),
            cache_written: self.cache_written.max(other.cache_written),
            cached: self.cached.max(other.cached),
            tool_prompt: self.tool_prompt.max(other.tool_prompt),
            output: self.output.max(other.output),
            reasoning: self.reasoning.max(other.reasoning),
            thoughts: self.thoughts.max(other.thoughts),
            total: self.total.max(other.total),
        }
    }

    pub(super) fn is_reported(self) -> bool {
        self.has_input() || self.has_output()
    }

    /// Returns whether the number of input tokens is known. If a response reports only a total, as for embeddings and
    /// rankings, the total is the input.
    pub(super) fn has_input(self) -> bool {
        self.prompt.or(self.input).or(self.total).is_some()
    }

    pub(super) fn has_output(self) -> bool {
        self.output.or(self.thoughts).is_some()
    }

    /// Converts the counts to the fields of Settle; `None` if the response reported no counts.
    pub(super) fn tokens(self) -> Option<Tokens> {
        if !self.is_reported() {
            return None;
        }
        let or_0 = |count: Option<u64>| count.unwrap_or(0);
        let plus = |a: u64, b: Option<u64>| a.saturating_add(or_0(b));
        let mut output = plus(or_0(self.output), self.thoughts);
        let input = match (self.prompt, self.input) {
            (Some(prompt), _) => prompt,
            (None, Some(input)) => plus(plus(input, self.cache_read), self.cache_written),
            (None, None) => or_0(self.total).saturating_sub(output),
        };
        let input = plus(input, self.tool_prompt);
        let reasoning = or_0(self.reasoning.or(self.thoughts));
        if reasoning > 0 && self.thoughts.is_none() {
            // Some servers exclude reasoning from the output. Only the total reveals this.
            let with_reasoning = output.saturating_add(reasoning);
            if self.total == Some(input.saturating_add(with_reasoning)) {
                output = with_reasoning;
            }
        } else if let (Some(_), Some(total), None) = (self.prompt, self.total, self.thoughts) {
            // Other servers do not report reasoning at all, but include it in the total.
            output = output.max(total.saturating_sub(input));
        }
        Some(Tokens {
            input,
            output,
            cached_input: or_0(self.cached.or(self.cache_read)).min(input),
            reasoning: reasoning.min(output),
        })
    }
}
