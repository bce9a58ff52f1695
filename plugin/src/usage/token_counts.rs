//! Token counts, under the names that providers give them.

use evenkeel_proto::v1::Tokens;

/// A count that a provider reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// The whole prompt, as reported by OpenAI chat, Gemini and Ollama.
    Prompt,
    /// The prompt; Anthropic and Bedrock exclude `CacheRead` and `CacheWritten` from it.
    Input,
    CacheRead,
    CacheWritten,
    /// Part of the prompt that was read from a cache.
    Cached,
    /// Tokens of Gemini's tool call prompts and Mistral's connectors; `Prompt` does not include them.
    ToolPrompt,
    Output,
    /// Reasoning tokens, usually part of `Output`.
    Reasoning,
    /// Gemini's reasoning tokens, usually not part of `Output`.
    Thoughts,
    /// Prompt and output together.
    Total,
}

/// The counts of the prompt; `None` for each count that is not reported.
#[derive(Clone, Copy, Debug, Default)]
struct InputCounts {
    prompt: Option<u64>,
    input: Option<u64>,
    cache_read: Option<u64>,
    cache_written: Option<u64>,
    cached: Option<u64>,
    tool_prompt: Option<u64>,
}

/// The counts of the output; `None` for each count that is not reported.
#[derive(Clone, Copy, Debug, Default)]
struct OutputCounts {
    output: Option<u64>,
    reasoning: Option<u64>,
    thoughts: Option<u64>,
}

/// Token counts of a response, in three groups: input, output and total.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TokenCounts {
    input: InputCounts,
    output: OutputCounts,
    total: Option<u64>,
}

fn or_0(count: Option<u64>) -> u64 {
    count.unwrap_or(0)
}

fn plus(a: u64, b: Option<u64>) -> u64 {
    a.saturating_add(or_0(b))
}

impl InputCounts {
    fn is_reported(self) -> bool {
        self.prompt.or(self.input).is_some()
    }

    fn caches(self) -> u64 {
        plus(or_0(self.cache_read), self.cache_written)
    }

    fn value(self) -> u64 {
        let caches = self.caches();
        let input = match (self.prompt, self.input) {
            // The prompt includes the caches, unless it is smaller than they are.
            (Some(prompt), _) if caches <= prompt => prompt,
            (Some(input), _) | (None, Some(input)) => input.saturating_add(caches),
            (None, None) => 0,
        };
        plus(input, self.tool_prompt)
    }

    /// Returns the counts after a later snapshot. The snapshot replaces all counts if it reports the prompt, unless it
    /// reports 0 after a larger count.
    fn replaced_by(self, later: InputCounts) -> InputCounts {
        if later.is_reported() {
            return if later.value() == 0 && self.value() > 0 { self } else { later };
        }
        InputCounts {
            prompt: self.prompt,
            input: self.input,
            cache_read: later.cache_read.or(self.cache_read),
            cache_written: later.cache_written.or(self.cache_written),
            cached: later.cached.or(self.cached),
            tool_prompt: later.tool_prompt.or(self.tool_prompt),
        }
    }
}

impl OutputCounts {
    fn is_reported(self) -> bool {
        self.output.or(self.thoughts).is_some()
    }

    fn value(self) -> u64 {
        plus(or_0(self.output), self.thoughts)
    }

    fn replaced_by(self, later: OutputCounts) -> OutputCounts {
        if later.is_reported() {
            return if later.value() == 0 && self.value() > 0 { self } else { later };
        }
        OutputCounts { reasoning: later.reasoning.or(self.reasoning), ..self }
    }
}

impl TokenCounts {
    pub(super) fn set(&mut self, count: TokenKind, number: u64) {
        *self.count(count) = Some(number);
    }

    pub(super) fn add(&mut self, count: TokenKind, number: u64) {
        let count = self.count(count);
        *count = Some(plus(number, *count));
    }

    fn count(&mut self, count: TokenKind) -> &mut Option<u64> {
        match count {
            TokenKind::Prompt => &mut self.input.prompt,
            TokenKind::Input => &mut self.input.input,
            TokenKind::CacheRead => &mut self.input.cache_read,
            TokenKind::CacheWritten => &mut self.input.cache_written,
            TokenKind::Cached => &mut self.input.cached,
            TokenKind::ToolPrompt => &mut self.input.tool_prompt,
            TokenKind::Output => &mut self.output.output,
            TokenKind::Reasoning => &mut self.output.reasoning,
            TokenKind::Thoughts => &mut self.output.thoughts,
            TokenKind::Total => &mut self.total,
        }
    }

    /// Returns the counts after a later snapshot. A group that the snapshot reports replaces the same group. Some
    /// servers report zeros between or after real counts; such zeros replace nothing.
    pub(super) fn replaced_by(self, later: TokenCounts) -> TokenCounts {
        // A total is the sum of the counts beside it, so it does not outlast them.
        let is_replaced = later.input.value() > 0 || later.output.value() > 0;
        let earlier_total = self.total.filter(|_| !is_replaced);
        TokenCounts {
            input: self.input.replaced_by(later.input),
            output: self.output.replaced_by(later.output),
            total: later.total.filter(|total| *total > 0).or(earlier_total).or(later.total),
        }
    }

    /// Returns the counts, with the groups of `other` instead of the groups that are not reported.
    pub(super) fn or(self, other: TokenCounts) -> TokenCounts {
        let mut input = if self.input.is_reported() { self.input } else { other.input };
        if input.cached.or(input.cache_read).is_none() {
            input.cached = other.input.cached.or(other.input.cache_read);
        }
        TokenCounts {
            input,
            output: if self.output.is_reported() { self.output } else { other.output },
            total: self.total.or(other.total),
        }
    }

    pub(super) fn without_total(self) -> TokenCounts {
        TokenCounts { total: None, ..self }
    }

    /// Returns whether a value with these counts reports how much was generated.
    pub(super) fn reports_output_after(self, earlier: TokenCounts) -> bool {
        let output = self.output;
        let is_snapshot = output.is_reported() && (output.value() > 0 || earlier.output.value() == 0);
        is_snapshot || or_0(self.total) > 0
    }

    pub(super) fn is_reported(self) -> bool {
        self.has_input() || self.has_output()
    }

    /// Returns whether the number of input tokens is known. If a response reports only a total, as for embeddings and
    /// rankings, the total is the input.
    pub(super) fn has_input(self) -> bool {
        self.input.is_reported() || self.total.is_some()
    }

    pub(super) fn has_output(self) -> bool {
        self.output.is_reported()
    }

    /// Returns whether the total reveals the output. A total below the prompt cannot be true.
    pub(super) fn has_total(self) -> bool {
        self.total.is_some_and(|total| total >= self.input.value())
    }

    /// Returns the total if the response reported the total alone.
    pub(super) fn lone_total(self) -> Option<u64> {
        let is_alone = self.input.value() == 0 && self.output.value() == 0;
        self.total.filter(|total| is_alone && *total > 0)
    }

    /// Converts the counts to the fields of Settle; `None` if the response reported no counts.
    pub(super) fn tokens(self) -> Option<Tokens> {
        if !self.is_reported() {
            return None;
        }
        let mut output = self.output.value();
        let mut input = self.input.value();
        if input == 0 {
            // The rest of the total is the prompt: a count of 0 cannot be true.
            input = or_0(self.total).saturating_sub(output);
        }
        let cached = self.input.cached.max(self.input.cache_read);
        let sum_is = |output: u64| self.total == Some(input.saturating_add(output));
        let reasoning = or_0(self.output.reasoning.or(self.output.thoughts));
        if self.output.thoughts.is_some() {
            // Some versions of Gemini include thoughts in the output. Only the total reveals this.
            let without = or_0(self.output.output);
            if without >= reasoning && sum_is(without) {
                output = without;
            }
        } else if reasoning > 0 {
            // Some servers exclude reasoning from the output. The total reveals this, or the sizes do.
            let with_reasoning = output.saturating_add(reasoning);
            if reasoning > output || sum_is(with_reasoning) {
                output = with_reasoning;
            }
        } else if let Some(total) = self.total.filter(|_| self.input.prompt.is_some() || output == 0) {
            // Other servers do not report reasoning or even the output at all, but include it in the total. Others
            // again add the caches to the total although the prompt includes them.
            let rest = total.saturating_sub(input).saturating_sub(output);
            if !self.is_cache(rest) {
                output = output.saturating_add(rest);
            }
        }
        Some(Tokens {
            input,
            output,
            cached_input: or_0(cached).min(input),
            reasoning: reasoning.min(output),
            cached_input_stated: cached.is_some(),
        })
    }

    fn is_cache(self, rest: u64) -> bool {
        let InputCounts { cache_read, cache_written, cached, .. } = self.input;
        let both = self.input.caches();
        rest > 0 && ([cache_read, cache_written, cached].contains(&Some(rest)) || rest == both)
    }
}

/// Counts of the calls that a provider made for one request and reports one by one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SubCalls {
    /// Sums of calls that the response's own counts include. They matter only if the response has no counts of its own.
    included: Tokens,
    /// Sums of calls that the provider bills beside the response's own counts.
    beside: Tokens,
    reported: bool,
}

impl SubCalls {
    /// Adds a call whose counts are complete.
    pub(super) fn add(&mut self, counts: TokenCounts, is_included: bool) {
        let Some(tokens) = counts.tokens() else { return };
        let sum = if is_included { &mut self.included } else { &mut self.beside };
        *sum = sum_of(sum, &tokens);
        self.reported = true;
    }

    pub(super) fn is_reported(&self) -> bool {
        self.reported
    }

    /// Returns the tokens of the response, with those of its calls.
    pub(super) fn complete(&self, tokens: Option<Tokens>) -> Option<Tokens> {
        if !self.reported {
            return tokens;
        }
        let own = tokens.filter(|own| own.input > 0 || own.output > 0).unwrap_or(self.included);
        Some(sum_of(&own, &self.beside))
    }
}

/// Adds two amounts of tokens.
pub(super) fn sum_of(a: &Tokens, b: &Tokens) -> Tokens {
    Tokens {
        input: a.input.saturating_add(b.input),
        output: a.output.saturating_add(b.output),
        cached_input: a.cached_input.saturating_add(b.cached_input),
        reasoning: a.reasoning.saturating_add(b.reasoning),
        cached_input_stated: a.cached_input_stated || b.cached_input_stated,
    }
}
