//! The engine of a model server with continuous batching, in virtual time.
//!
//! The engine works in steps, as vLLM does with chunked prefill. A *sequence* is one request in the engine. At the
//! start of a step, the engine puts every running sequence into the batch, fills the free slots from a first-in,
//! first-out queue, and reads at most [`EngineParams::prefill_budget`] prompt tokens, oldest sequence first. The step
//! then takes
//!
//! ```text
//! base + per_seq × decoding sequences + per_kv_token × their tokens in the KV cache
//!      + per_prefill_token × Σ tokens × (1 + (context + tokens / 2) / attention_tokens)   over the prompts it reads
//! ```
//!
//! At the end of the step, every decoding sequence has one more token, and every sequence whose prompt has been read
//! completely has its first token. A sequence that has all its tokens frees its slot.
//!
//! With a prefix cache ([`PrefixCache`]), a sequence that gets a slot reads only what follows the blocks that the cache
//! has, at least one token. The blocks that a step has read are in the cache at its end.
//!
//! The engine has no clock: its owner passes the time. The mock server passes scaled wall-clock time, and the simulator
//! passes the time of the next event. Both therefore run the same code.

mod cache;
mod params;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use cache::PrefixCache;
pub use params::EngineParams;

/// Tokens in a block of a prompt, as in Mooncake's traces.
pub const BLOCK_TOKENS: u32 = 512;

/// One token of one sequence. Readers may combine several tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emission {
    pub id: u64,
    /// Virtual time at the end of the step that produced the token.
    pub at: Duration,
    /// Number of tokens that the sequence has produced so far.
    pub produced: u32,
    pub done: bool,
    /// Tokens of the prompt that the prefix cache had.
    pub cached: u32,
}

#[derive(Debug)]
struct Sequence {
    id: u64,
    prompt: u32,
    prompt_left: u32,
    /// Tokens of the prompt that the prefix cache had.
    cached: u32,
    /// Ids of the complete blocks of the prompt.
    blocks: Arc<[u64]>,
    produced: u32,
    output: u32,
    /// Prompt tokens that the current step reads.
    chunk: u32,
    /// Whether the sequence takes part in the current step. A sequence that waits for prefill budget does not.
    stepping: bool,
}

impl Sequence {
    fn read(&self) -> u32 {
        self.prompt - self.prompt_left
    }
}

/// Totals over virtual time since the engine started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EngineTotals {
    pub steps: u64,
    /// Time spent in steps.
    pub busy: Duration,
    /// Number of busy slots, integrated over time.
    pub slot_seconds: f64,
    /// Prompt tokens that steps have read.
    pub prompt_tokens: u64,
    /// Prompt tokens that no step had to read, because the prefix cache had them.
    pub cached_tokens: u64,
    pub generated_tokens: u64,
}

#[derive(Debug)]
pub struct Engine {
    params: EngineParams,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    step_ends: Option<Duration>,
    step_length: Duration,
    totals: EngineTotals,
    cache: PrefixCache,
    /// How many unread prompts have each block.
    unread_blocks: HashMap<u64, u32>,
}

impl Engine {
    pub fn new(params: EngineParams) -> Self {
        let cache = PrefixCache::new(params.cache_tokens / u64::from(BLOCK_TOKENS));
        Self {
            cache,
            unread_blocks: HashMap::new(),
            params,
            waiting: VecDeque::new(),
            running: Vec::new(),
            step_ends: None,
            step_length: Duration::ZERO,
            totals: EngineTotals::default(),
        }
    }

    pub fn params(&self) -> &EngineParams {
        &self.params
    }

    /// Returns the end of the current step; `None` if the engine is idle.
    pub fn next_event(&self) -> Option<Duration> {
        self.step_ends
    }

    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Returns the length of the queue for slots.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Returns the fraction of the KV cache in use. It can exceed 1, because the engine never preempts a sequence.
    pub fn kv_usage(&self) -> f64 {
        let used: u64 = self.running.iter().map(|s| u64::from(s.read()) + u64::from(s.produced)).sum();
        used as f64 / self.params.kv_tokens.max(1) as f64
    }

    pub fn totals(&self) -> EngineTotals {
        self.totals
    }

    /// Returns the prompt tokens that no step has read yet. A sequence in the queue counts with its whole prompt.
    pub fn unread(&self) -> u64 {
        self.waiting.iter().chain(&self.running).map(|s| u64::from(s.prompt_left)).sum()
    }

    /// Returns how many tokens of a prompt with these complete blocks the prefix cache will have once the prompts that
    /// are here have been read.
    pub fn expected_cached(&self, blocks: &[u64]) -> u64 {
        let is_expected =
            |block: &&u64| self.cache.contains(**block) || self.unread_blocks.contains_key(*block);
        blocks.iter().take_while(is_expected).count() as u64 * u64::from(BLOCK_TOKENS)
    }

    /// Empties the prefix cache.
    pub fn clear_cache(&mut self) {
        self.cache.clear();
    }

    /// Finishes every step that ends by `now`. Starts each next step exactly when the previous step ended, so a late
    /// call causes no drift.
    pub fn advance(&mut self, now: Duration, mut emit: impl FnMut(Emission)) {
        while let Some(ends) = self.step_ends.filter(|ends| *ends <= now) {
            self.finish_step(ends, &mut emit);
            self.start_step(ends);
        }
    }

    /// Enqueues a sequence whose prompt shares no blocks with others. The caller must have called [`Engine::advance`]
    /// with the same `now`.
    pub fn submit(&mut self, now: Duration, id: u64, prompt: u32, output: u32) {
        self.submit_blocks(now, id, (prompt, output), Arc::default());
    }

    /// Enqueues a sequence with the sizes of its prompt and its output, and the ids of its prompt's complete blocks. The
    /// caller must have called [`Engine::advance`] with the same `now`.
    pub fn submit_blocks(
        &mut self,
        now: Duration,
        id: u64,
        (prompt, output): (u32, u32),
        blocks: Arc<[u64]>,
    ) {
        debug_assert!(self.step_ends.is_none_or(|ends| ends > now), "advance before submit");
        let prompt = prompt.max(1);
        let blocks = if self.cache.is_off() { Arc::default() } else { blocks };
        for block in &*blocks {
            *self.unread_blocks.entry(*block).or_default() += 1;
        }
        self.waiting.push_back(Sequence {
            id,
            prompt,
            prompt_left: prompt,
            cached: 0,
            blocks,
            produced: 0,
            output: output.max(1),
            chunk: 0,
            stepping: false,
        });
        if self.step_ends.is_none() {
            self.start_step(now);
        }
    }

    /// Removes a sequence immediately, so that its slot is free for the next step. Returns false if the sequence is
    /// unknown or finished.
    pub fn abort(&mut self, id: u64) -> bool {
        let running = self.running.iter().position(|s| s.id == id).map(|i| self.running.remove(i));
        let removed = running.or_else(|| {
            let i = self.waiting.iter().position(|s| s.id == id)?;
            self.waiting.remove(i)
        });
        if let Some(s) = removed.as_ref().filter(|s| s.prompt_left > 0) {
            forget_unread(&mut self.unread_blocks, &s.blocks);
        }
        removed.is_some()
    }

    fn finish_step(&mut self, at: Duration, emit: &mut impl FnMut(Emission)) {
        self.totals.steps += 1;
        self.totals.busy += self.step_length;
        self.totals.slot_seconds += self.running.len() as f64 * self.step_length.as_secs_f64();
        let Self { totals, cache, unread_blocks, running, .. } = self;
        running.retain_mut(|s| {
            if !s.stepping {
                return true;
            }
            if s.chunk > 0 {
                let before = s.read() / BLOCK_TOKENS;
                s.prompt_left -= s.chunk;
                totals.prompt_tokens += u64::from(s.chunk);
                let after = s.read() / BLOCK_TOKENS;
                cache.touch(block_range(&s.blocks, before, after));
            }
            if s.prompt_left > 0 {
                return true;
            }
            if s.produced == 0 {
                forget_unread(unread_blocks, &s.blocks);
            }
            s.produced += 1;
            totals.generated_tokens += 1;
            let done = s.produced == s.output;
            if done {
                cache.touch(&s.blocks);
            }
            emit(Emission { id: s.id, at, produced: s.produced, done, cached: s.cached });
            !done
        });
    }

    fn start_step(&mut self, now: Duration) {
        let mut budget = self.params.prefill_budget.max(1);
        let (mut decoding, mut decoding_kv_tokens, mut read) = (0, 0, 0.0);
        for s in &mut self.running {
            s.chunk = s.prompt_left.min(budget);
            budget -= s.chunk;
            s.stepping = s.prompt_left == 0 || s.chunk > 0;
            read += self.params.read_cost(s.read(), s.chunk);
            if s.prompt_left == 0 {
                decoding += 1;
                decoding_kv_tokens += u64::from(s.prompt) + u64::from(s.produced);
            }
        }
        while budget > 0 && self.running.len() < self.params.slots {
            let Some(mut s) = self.waiting.pop_front() else { break };
            // The last token must be read, because its step generates the first token of the answer.
            s.cached = (self.cache.matched(&s.blocks) * BLOCK_TOKENS).min(s.prompt - 1);
            s.prompt_left -= s.cached;
            self.totals.cached_tokens += u64::from(s.cached);
            read += self.params.read_cost(s.cached, s.prompt_left.min(budget));
            s.chunk = s.prompt_left.min(budget);
            budget -= s.chunk;
            s.stepping = true;
            self.running.push(s);
        }
        if self.running.is_empty() {
            self.step_ends = None;
            return;
        }
        self.step_length = self.params.step(decoding, decoding_kv_tokens, read);
        self.step_ends = Some(now + self.step_length);
    }
}

/// Returns the blocks from number `from` up to but not including number `to`, as far as they exist.
fn block_range(blocks: &[u64], from: u32, to: u32) -> &[u64] {
    let end = blocks.len().min(to as usize);
    &blocks[end.min(from as usize)..end]
}

/// Removes one prompt's blocks from the counts.
fn forget_unread(counts: &mut HashMap<u64, u32>, blocks: &[u64]) {
    for block in blocks {
        if let std::collections::hash_map::Entry::Occupied(mut count) = counts.entry(*block) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}
