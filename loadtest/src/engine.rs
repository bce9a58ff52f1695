//! The engine of a model server with continuous batching, in virtual time.
//!
//! The engine works in steps, as vLLM does with chunked prefill. A *sequence* is one request in the engine. At the
//! start of a step, the engine puts every running sequence into the batch, fills the free slots from a first-in,
//! first-out queue, and reads at most [`EngineParams::prefill_budget`] prompt tokens, oldest sequence first. The step
//! then takes
//!
//! ```text
//! base + per_seq × decoding sequences + per_prefill_token × prompt tokens read
//! ```
//!
//! At the end of the step, every decoding sequence has one more token, and every sequence whose prompt has been read
//! completely has its first token. A sequence that has all its tokens frees its slot.
//!
//! The engine has no clock: its owner passes the time. The mock server passes scaled wall-clock time, and the simulator
//! passes the time of the next event. Both therefore run the same code.

use std::{collections::VecDeque, time::Duration};

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
        }
    }
}

impl EngineParams {
    pub fn step(&self, decoding: usize, prefill_tokens: u32) -> Duration {
        let ms = self.base_ms
            + self.per_seq_ms * decoding as f64
            + self.per_prefill_token_ms * f64::from(prefill_tokens);
        Duration::from_nanos((ms * 1e6).round().max(1.0) as u64)
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
        let mut left = prompt.max(1);
        let mut total = Duration::ZERO;
        while left > 0 {
            let chunk = left.min(self.prefill_budget);
            total += self.step(0, chunk);
            left -= chunk;
        }
        total
    }
}

/// One token of one sequence. Readers may combine several tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emission {
    pub id: u64,
    /// Virtual time at the end of the step that produced the token.
    pub at: Duration,
    /// Number of tokens that the sequence has produced so far.
    pub produced: u32,
    pub done: bool,
}

#[derive(Debug)]
struct Sequence {
    id: u64,
    prompt: u32,
    prompt_left: u32,
    produced: u32,
    output: u32,
    /// Prompt tokens that the current step reads.
    chunk: u32,
    /// Whether the sequence takes part in the current step. A sequence that waits for prefill budget does not.
    stepping: bool,
}

/// Totals over virtual time since the engine started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EngineTotals {
    pub steps: u64,
    /// Time spent in steps.
    pub busy: Duration,
    /// Number of busy slots, integrated over time.
    pub slot_seconds: f64,
    pub prompt_tokens: u64,
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
}

impl Engine {
    pub fn new(params: EngineParams) -> Self {
        Self {
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
        let used: u64 =
            self.running.iter().map(|s| u64::from(s.prompt - s.prompt_left) + u64::from(s.produced)).sum();
        used as f64 / self.params.kv_tokens.max(1) as f64
    }

    pub fn totals(&self) -> EngineTotals {
        self.totals
    }

    /// Finishes every step that ends by `now`. Starts each next step exactly when the previous step ended, so a late
    /// call causes no drift.
    pub fn advance(&mut self, now: Duration, mut emit: impl FnMut(Emission)) {
        while let Some(ends) = self.step_ends.filter(|ends| *ends <= now) {
            self.finish_step(ends, &mut emit);
            self.start_step(ends);
        }
    }

    /// Enqueues a sequence. The caller must have called [`Engine::advance`] with the same `now`.
    pub fn submit(&mut self, now: Duration, id: u64, prompt: u32, output: u32) {
        debug_assert!(self.step_ends.is_none_or(|ends| ends > now), "advance before submit");
        let prompt = prompt.max(1);
        self.waiting.push_back(Sequence {
            id,
            prompt,
            prompt_left: prompt,
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
        if let Some(i) = self.running.iter().position(|s| s.id == id) {
            self.running.remove(i);
            return true;
        }
        if let Some(i) = self.waiting.iter().position(|s| s.id == id) {
            self.waiting.remove(i);
            return true;
        }
        false
    }

    fn finish_step(&mut self, at: Duration, emit: &mut impl FnMut(Emission)) {
        self.totals.steps += 1;
        self.totals.busy += self.step_length;
        self.totals.slot_seconds += self.running.len() as f64 * self.step_length.as_secs_f64();
        let totals = &mut self.totals;
        self.running.retain_mut(|s| {
            if !s.stepping {
                return true;
            }
            s.prompt_left -= s.chunk;
            totals.prompt_tokens += u64::from(s.chunk);
            if s.prompt_left > 0 {
                return true;
            }
            s.produced += 1;
            totals.generated_tokens += 1;
            let done = s.produced == s.output;
            emit(Emission { id: s.id, at, produced: s.produced, done });
            !done
        });
    }

    fn start_step(&mut self, now: Duration) {
        let mut budget = self.params.prefill_budget.max(1);
        let mut decoding = 0;
        for s in &mut self.running {
            s.chunk = s.prompt_left.min(budget);
            budget -= s.chunk;
            s.stepping = s.prompt_left == 0 || s.chunk > 0;
            decoding += usize::from(s.prompt_left == 0);
        }
        while budget > 0 && self.running.len() < self.params.slots {
            let Some(mut s) = self.waiting.pop_front() else { break };
            s.chunk = s.prompt_left.min(budget);
            budget -= s.chunk;
            s.stepping = true;
            self.running.push(s);
        }
        if self.running.is_empty() {
            self.step_ends = None;
            return;
        }
        self.step_length = self.params.step(decoding, self.params.prefill_budget.max(1) - budget);
        self.step_ends = Some(now + self.step_length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params() -> EngineParams {
        EngineParams {
            slots: 2,
            base_ms: 20.0,
            per_seq_ms: 1.0,
            per_prefill_token_ms: 0.1,
            prefill_budget: 100,
            kv_tokens: 1000,
        }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Returns for each emission: id, produced, done, and the time in ms.
    fn run(engine: &mut Engine, until: Duration) -> Vec<(u64, u32, bool, u64)> {
        let mut out = Vec::new();
        engine.advance(until, |e| out.push((e.id, e.produced, e.done, e.at.as_millis() as u64)));
        out
    }

    #[test]
    fn step_durations_follow_the_formula() {
        let mut engine = Engine::new(params());
        engine.submit(ms(0), 1, 150, 3);
        // The prompt is read in two steps: 100 tokens take 20 + 10 ms, 50 tokens take 20 + 5 ms. Each decode step then
        // takes 20 + 1 ms.
        assert_eq!(engine.next_event(), Some(ms(30)));
        assert_eq!(run(&mut engine, ms(1000)), [(1, 1, false, 55), (1, 2, false, 76), (1, 3, true, 97)]);
        assert_eq!(engine.next_event(), None);
        assert_eq!(engine.totals().steps, 4);
        assert_eq!(engine.totals().busy, ms(97));
        assert_eq!(params().idle_ttft(150), ms(55));
    }

    #[test]
    fn a_new_sequence_joins_the_next_step() {
        let mut engine = Engine::new(params());
        engine.submit(ms(0), 1, 10, 3);
        assert_eq!(run(&mut engine, ms(10)), []);
        engine.submit(ms(10), 2, 20, 1);
        // Step 1 takes 20 + 1 ms and ends at 21 ms. In step 2, one sequence decodes (1 ms) and the other reads 20
        // tokens (2 ms): it takes 23 ms and ends at 44 ms.
        assert_eq!(run(&mut engine, ms(44)), [(1, 1, false, 21), (1, 2, false, 44), (2, 1, true, 44)]);
        assert_eq!(run(&mut engine, ms(100)), [(1, 3, true, 65)]);
    }

    #[test]
    fn the_queue_is_first_in_first_out_and_slots_bound_the_batch() {
        let mut engine = Engine::new(params());
        for id in 1..=3 {
            engine.submit(ms(0), id, 10, 2);
        }
        // The first sequence starts alone, the second joins, and the third waits for a slot.
        run(&mut engine, ms(21));
        assert_eq!((engine.running(), engine.waiting()), (2, 1));
        let order: Vec<u64> = run(&mut engine, ms(1000)).iter().filter(|e| e.2).map(|e| e.0).collect();
        assert_eq!(order, [1, 2, 3]);
    }

    #[test]
    fn prefill_budget_is_shared_oldest_first() {
        let mut engine = Engine::new(EngineParams { slots: 4, ..params() });
        engine.submit(ms(0), 1, 10, 1);
        engine.submit(ms(0), 2, 80, 1);
        engine.submit(ms(0), 3, 80, 1);
        // Step 1 takes 21 ms. Step 2 reads 80 tokens of sequence 2 and 20 tokens of sequence 3, and takes 30 ms. Step 3
        // reads the other 60 tokens of sequence 3, and takes 26 ms.
        assert_eq!(run(&mut engine, ms(1000)), [(1, 1, true, 21), (2, 1, true, 51), (3, 1, true, 77)]);
    }

    #[test]
    fn late_advances_cause_no_drift() {
        let (mut punctual, mut late) = (Engine::new(params()), Engine::new(params()));
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for engine in [&mut punctual, &mut late] {
            engine.submit(ms(0), 1, 37, 50);
        }
        for t in 0..2000 {
            a.extend(run(&mut punctual, ms(t)));
        }
        b.extend(run(&mut late, ms(2000)));
        assert_eq!(a, b);
    }

    #[test]
    fn an_aborted_sequence_frees_its_slot_immediately() {
        let mut engine = Engine::new(params());
        engine.submit(ms(0), 1, 10, 1000);
        engine.submit(ms(0), 2, 10, 1000);
        engine.submit(ms(0), 3, 10, 1);
        run(&mut engine, ms(100));
        assert!(engine.abort(1));
        assert!(!engine.abort(1));
        assert_eq!((engine.running(), engine.waiting()), (1, 1));
        assert!(run(&mut engine, ms(200)).iter().any(|e| e.0 == 3 && e.2));
        assert!(engine.abort(2));
        run(&mut engine, ms(300));
        assert_eq!(engine.next_event(), None);
    }

    #[test]
    fn stated_capacity_equals_saturated_throughput() {
        let params = EngineParams { slots: 16, prefill_budget: 512, ..EngineParams::default() };
        // The first is bound by its outputs, the second by its prompts.
        for (prompt, output) in [(200, 100), (4000, 10)] {
            let mut engine = Engine::new(params.clone());
            for id in 0..4000 {
                engine.submit(ms(0), id, prompt, output);
            }
            let mut done = 0;
            engine.advance(Duration::from_secs(200), |e| done += u64::from(e.done));
            let measured = done as f64 / 200.0;
            let stated = params.capacity_rps(f64::from(prompt), f64::from(output));
            assert!((measured / stated - 1.0).abs() < 0.06, "{prompt}: measured {measured}, stated {stated}");
        }
    }
}
