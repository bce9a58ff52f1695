//! A model server's engine with continuous batching, on virtual time.
//!
//! The engine works in steps, as vLLM does with chunked prefill. At the start of a step it takes every
//! running sequence into the batch, fills the free slots from a first-in first-out queue, and spends at most
//! [`EngineParams::prefill_budget`] prompt tokens, oldest sequence first. The step then lasts
//!
//! ```text
//! base + per_seq × sequences that decode + per_prefill_token × prompt tokens read
//! ```
//!
//! and at its end every decoding sequence has one token more, and every sequence whose prompt was
//! read to the end has its first. A sequence that has all its tokens leaves its slot.
//!
//! The engine knows no clock: its owner tells it the time. The mock server feeds it the wall clock times a
//! scale, the simulator the time of the next event. Both so run the same code.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};

/// Speed and size of one model server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EngineParams {
    /// Sequences that run at once (vLLM's `max_num_seqs`).
    pub slots: usize,
    /// Time of a step with an empty batch.
    pub base_ms: f64,
    /// Time each decoding sequence adds to a step.
    pub per_seq_ms: f64,
    /// Time each prompt token read in a step adds to it.
    pub per_prefill_token_ms: f64,
    /// Prompt tokens read in one step at most.
    pub prefill_budget: u32,
    /// Tokens the KV cache holds. Only reported as a ratio: the engine never preempts.
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
    /// Duration of a step.
    pub fn step(&self, decoding: usize, prefill_tokens: u32) -> Duration {
        let ms = self.base_ms
            + self.per_seq_ms * decoding as f64
            + self.per_prefill_token_ms * f64::from(prefill_tokens);
        Duration::from_nanos((ms * 1e6).round().max(1.0) as u64)
    }

    /// Requests per second one host completes when all its slots are always taken: what "100 % load" means.
    ///
    /// With a full batch each step yields one token for each slot, so a request costs its share of decode steps plus the
    /// time its own prompt adds to steps.
    pub fn capacity_rps(&self, mean_prompt: f64, mean_output: f64) -> f64 {
        let slots = self.slots as f64;
        let decode_ms = mean_output / slots * (self.base_ms + self.per_seq_ms * slots);
        1e3 / (decode_ms + self.per_prefill_token_ms * mean_prompt)
    }

    /// Time to first token of one request on an idle host.
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

/// A token (or several, for the reader who coalesces) of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emission {
    /// Which sequence.
    pub id: u64,
    /// End of the step that produced it, in virtual time.
    pub at: Duration,
    /// Tokens the sequence has produced so far.
    pub produced: u32,
    /// Whether this was its last.
    pub done: bool,
}

#[derive(Debug)]
struct Sequence {
    id: u64,
    prompt: u32,
    prompt_left: u32,
    produced: u32,
    output: u32,
    /// Prompt tokens read in the current step.
    chunk: u32,
    /// Part of the current step (a sequence waiting for prefill budget is not).
    stepping: bool,
}

/// Integrals over virtual time since the engine started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EngineTotals {
    /// Steps finished.
    pub steps: u64,
    /// Time spent in steps.
    pub busy: Duration,
    /// Slots taken, integrated over steps, in seconds.
    pub slot_seconds: f64,
    /// Prompt tokens read.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
}

/// One model server on virtual time.
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
    /// An idle engine.
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

    /// Its parameters.
    pub fn params(&self) -> &EngineParams {
        &self.params
    }

    /// End of the step under way; `None` when idle.
    pub fn next_event(&self) -> Option<Duration> {
        self.step_ends
    }

    /// Sequences that have a slot.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Sequences in the queue.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Part of the KV cache in use, 0 to 1 (and above, as nothing is preempted).
    pub fn kv_usage(&self) -> f64 {
        let used: u64 =
            self.running.iter().map(|s| u64::from(s.prompt - s.prompt_left) + u64::from(s.produced)).sum();
        used as f64 / self.params.kv_tokens.max(1) as f64
    }

    /// Integrals since the start.
    pub fn totals(&self) -> EngineTotals {
        self.totals
    }

    /// Finishes every step that ends by `now`, and starts the next ones at exactly the time the one
    /// before ended: being told late adds no drift.
    pub fn advance(&mut self, now: Duration, mut emit: impl FnMut(Emission)) {
        while let Some(ends) = self.step_ends.filter(|ends| *ends <= now) {
            self.finish_step(ends, &mut emit);
            self.start_step(ends);
        }
    }

    /// Puts a sequence into the queue. The caller has called [`Engine::advance`] with the same `now`.
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

    /// Takes a sequence out at once: its slot is free for the next step. False when it is unknown or finished.
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

    /// (id, produced, done, at in ms)
    fn run(engine: &mut Engine, until: Duration) -> Vec<(u64, u32, bool, u64)> {
        let mut out = Vec::new();
        engine.advance(until, |e| out.push((e.id, e.produced, e.done, e.at.as_millis() as u64)));
        out
    }

    #[test]
    fn steps_last_what_the_formula_says() {
        let mut engine = Engine::new(params());
        engine.submit(ms(0), 1, 150, 3);
        // Two chunks: 100 tokens take 20 + 10, 50 take 20 + 5. Then decode steps of 20 + 1.
        assert_eq!(engine.next_event(), Some(ms(30)));
        assert_eq!(run(&mut engine, ms(1000)), [(1, 1, false, 55), (1, 2, false, 76), (1, 3, true, 97)]);
        assert_eq!(engine.next_event(), None);
        assert_eq!(engine.totals().steps, 4);
        assert_eq!(engine.totals().busy, ms(97));
        assert_eq!(params().idle_ttft(150), ms(55));
    }

    #[test]
    fn a_newcomer_joins_at_the_next_step_and_shares_it() {
        let mut engine = Engine::new(params());
        engine.submit(ms(0), 1, 10, 3);
        assert_eq!(run(&mut engine, ms(10)), []);
        engine.submit(ms(10), 2, 20, 1);
        // Step 1: 20 + 1 = 21. Step 2: one decodes (1), the other reads 20 tokens (2): 23 long, ends at 44.
        assert_eq!(run(&mut engine, ms(44)), [(1, 1, false, 21), (1, 2, false, 44), (2, 1, true, 44)]);
        assert_eq!(run(&mut engine, ms(100)), [(1, 3, true, 65)]);
    }

    #[test]
    fn the_queue_is_first_in_first_out_and_slots_bound_the_batch() {
        let mut engine = Engine::new(params());
        for id in 1..=3 {
            engine.submit(ms(0), id, 10, 2);
        }
        // The first began alone; the second joins; the third waits for a slot.
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
        // 21; then 80 of the second and 20 of the third: 30 more; then the third's other 60: 26 more.
        assert_eq!(run(&mut engine, ms(1000)), [(1, 1, true, 21), (2, 1, true, 51), (3, 1, true, 77)]);
    }

    #[test]
    fn being_told_late_adds_no_drift() {
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
    fn an_aborted_sequence_leaves_its_slot_at_once() {
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
    fn capacity_is_what_a_saturated_engine_does() {
        let params = EngineParams { slots: 16, prefill_budget: 512, ..EngineParams::default() };
        let mut engine = Engine::new(params.clone());
        for id in 0..4000 {
            engine.submit(ms(0), id, 200, 100);
        }
        let mut done = 0;
        engine.advance(Duration::from_secs(200), |e| done += u64::from(e.done));
        let measured = done as f64 / 200.0;
        let stated = params.capacity_rps(200.0, 100.0);
        assert!((measured / stated - 1.0).abs() < 0.05, "measured {measured}, stated {stated}");
    }
}
