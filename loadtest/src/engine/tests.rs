use super::*;

fn params() -> EngineParams {
    EngineParams {
        slots: 2,
        base_ms: 20.0,
        per_seq_ms: 1.0,
        per_prefill_token_ms: 0.1,
        prefill_budget: 100,
        kv_tokens: 1000,
        ..EngineParams::default()
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

fn caching(blocks: u64) -> EngineParams {
    EngineParams { slots: 8, prefill_budget: 1024, cache_tokens: blocks * 512, ..params() }
}

/// Runs a request alone until its end. Returns how many of its tokens the cache had.
fn cached(engine: &mut Engine, prompt: u32, blocks: &[u64]) -> u32 {
    let now = engine.next_event().unwrap_or_default() + Duration::from_hours(1);
    engine.submit_blocks(now, 1, (prompt, 2), blocks.into());
    let mut cached = None;
    engine.advance(Duration::MAX / 2, |e| cached = Some(e.cached));
    cached.unwrap()
}

#[test]
fn a_request_reads_only_what_the_cache_does_not_have() {
    let mut engine = Engine::new(caching(100));
    assert_eq!(cached(&mut engine, 1600, &[1, 2, 3]), 0);
    assert_eq!(cached(&mut engine, 1600, &[1, 2, 9]), 1024);
    // At least one token is read.
    assert_eq!(cached(&mut engine, 1536, &[1, 2, 3]), 1535);
    // A block counts only behind all earlier blocks.
    assert_eq!(cached(&mut engine, 1600, &[7, 2, 3]), 0);
    let totals = engine.totals();
    assert_eq!((totals.cached_tokens, totals.prompt_tokens), (1024 + 1535, 1600 + 576 + 1 + 1600));
    engine.clear_cache();
    assert_eq!(cached(&mut engine, 1600, &[1, 2, 3]), 0);
    let mut off = Engine::new(caching(0));
    assert_eq!([cached(&mut off, 1600, &[1, 2, 3]), cached(&mut off, 1600, &[1, 2, 3])], [0, 0]);
}

#[test]
fn the_cache_forgets_the_least_recently_used_blocks_last_ones_first() {
    let mut engine = Engine::new(caching(4));
    cached(&mut engine, 1600, &[1, 2, 3]);
    cached(&mut engine, 600, &[4]);
    cached(&mut engine, 1100, &[1, 2]);
    cached(&mut engine, 600, &[5]);
    // Block 3 is the oldest: the third request used only the first two.
    assert_eq!(cached(&mut engine, 1600, &[1, 2, 3]), 1024);
}

#[test]
fn a_block_is_in_the_cache_once_it_has_been_read() {
    let mut engine = Engine::new(EngineParams { prefill_budget: 512, ..caching(100) });
    engine.submit_blocks(ms(0), 1, (1024, 5), [1, 2].into());
    assert_eq!((engine.unread(), engine.expected_cached(&[1, 2, 3])), (1024, 1024));
    // The first step takes 20 + 51.2 ms.
    run(&mut engine, ms(72));
    engine.submit_blocks(ms(72), 2, (1024, 1), [1, 2].into());
    assert_eq!(engine.unread(), 512 + 1024);
    let mut found = Vec::new();
    engine.advance(ms(10_000), |e| found.push((e.id, e.cached)));
    // The second prompt gets its slot when the first has been read completely.
    assert!(found.contains(&(2, 1023)), "{found:?}");
    assert_eq!(engine.expected_cached(&[1, 2, 3]), 1024);
    assert!(engine.unread_blocks.is_empty());
}

#[test]
fn an_aborted_prompt_is_no_longer_expected_in_the_cache() {
    let mut engine = Engine::new(caching(100));
    for id in [1, 2] {
        engine.submit_blocks(ms(0), id, (5000, 5), [1, 2, 3].into());
    }
    engine.abort(2);
    assert_eq!(engine.expected_cached(&[1, 2, 3]), 1536);
    engine.abort(1);
    assert_eq!((engine.expected_cached(&[1, 2, 3]), engine.unread()), (0, 0));
    assert!(engine.unread_blocks.is_empty());
}

#[test]
fn steps_grow_with_context_and_with_the_kv_cache() {
    let params = EngineParams { per_kv_token_ms: 0.01, attention_tokens: 100.0, ..params() };
    // The first 100 tokens cost 100 × (1 + 50 / 100), the next 50 cost 50 × (1 + 125 / 100).
    assert_eq!(params.idle_ttft(150), Duration::from_micros(20_000 + 15_000 + 20_000 + 11_250));
    let mut engine = Engine::new(params);
    engine.submit(ms(0), 1, 150, 2);
    run(&mut engine, ms(67));
    // One sequence decodes (1 ms), with 151 tokens in the KV cache.
    assert_eq!(engine.next_event(), Some(Duration::from_micros(66_250 + 21_000 + 1_510)));
}
