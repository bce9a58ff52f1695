//! A synthetic trace of conversations whose prompts share their beginnings, for users without a copy of Mooncake's.
//!
//! The trace is fitted to Mooncake's conversation trace (12,031 requests in 59 minutes):
//!
//! - **Conversations.** 61 % of the requests begin one. Every request, also the first one, is followed by another of the
//!   same conversation with a probability of 0.387. Its prompt is the previous prompt and more text.
//! - **Sizes and pauses.** First prompts, the text that each further request adds, outputs and the pauses between two
//!   requests of a conversation are drawn from the original's quantiles.
//! - **Shared text.** All prompts begin with the same block, as in the original.
//! - **Arrivals.** Conversations begin as a Poisson process. In windows of 3 s, the original's index of dispersion is 1.1.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{
    Request, Workload,
    quantiles::{Quantiles, draw},
    synth::exponential,
};
use crate::engine::BLOCK_TOKENS;

/// Mean requests per second of the original.
pub const RATE_RPS: f64 = 3.4;
/// Probability that another request follows in the same conversation.
const CONTINUES: f64 = 0.387;
/// Longest prompt of the original.
const PROMPT_MAX: u32 = 126_195;
/// Id of the block with which all prompts begin.
const FIRST_BLOCK: u64 = 0;
/// Time before the trace in which conversations begin, so that the trace starts with some that go on.
const BEFORE: Duration = Duration::from_secs(1800);

/// `input_length` of requests that share only their first block with an earlier one.
const FIRST_PROMPT: Quantiles = &[
    (0.0, 891.0),
    (0.1, 905.0),
    (0.2, 1092.0),
    (0.25, 1336.0),
    (0.3, 1756.0),
    (0.4, 3914.0),
    (0.5, 5264.0),
    (0.6, 7417.0),
    (0.7, 10_775.0),
    (0.8, 15_871.0),
    (0.9, 25_561.0),
    (0.95, 38_538.0),
    (0.975, 58_648.0),
    (0.99, 89_869.0),
    (1.0, 126_195.0),
];

/// Tokens after the shared blocks, for the other requests.
const ADDED: Quantiles = &[
    (0.0, 20.0),
    (0.1, 163.0),
    (0.2, 473.0),
    (0.4, 829.0),
    (0.5, 992.0),
    (0.6, 1680.0),
    (0.7, 3503.0),
    (0.8, 6800.0),
    (0.9, 14_768.0),
    (0.95, 18_556.0),
    (0.975, 26_773.0),
    (0.99, 32_834.0),
    (1.0, 94_968.0),
];

/// `output_length`.
const OUTPUT: Quantiles = &[
    (0.0, 1.0),
    (0.05, 10.0),
    (0.1, 24.0),
    (0.2, 100.0),
    (0.3, 213.0),
    (0.5, 350.0),
    (0.7, 447.0),
    (0.9, 597.0),
    (0.975, 836.0),
    (0.99, 1120.0),
    (1.0, 2000.0),
];

/// Seconds between two requests of a conversation.
const PAUSE_S: Quantiles = &[
    (0.0, 5.0),
    (0.05, 30.0),
    (0.2, 60.0),
    (0.5, 162.0),
    (0.75, 318.0),
    (0.9, 618.0),
    (0.975, 1480.0),
    (1.0, 3030.0),
];

/// Generates a trace with a mean of `rate_rps` requests per second. The same seed yields the same trace.
pub fn generate(seed: u64, duration: Duration, rate_rps: f64) -> Workload {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut requests = Vec::new();
    let mut next_block = FIRST_BLOCK + 1;
    let begin_rps = rate_rps * (1.0 - CONTINUES);
    let end_s = (BEFORE + duration).as_secs_f64();
    let mut begins_s = exponential(&mut rng) / begin_rps;
    while begins_s < end_s {
        converse(begins_s, &mut next_block, &mut rng, &mut requests);
        begins_s += exponential(&mut rng) / begin_rps;
    }
    requests.retain(|request: &Request| (BEFORE..BEFORE + duration).contains(&request.at));
    for request in &mut requests {
        request.at -= BEFORE;
    }
    requests.sort_by_key(|request| request.at);
    Workload { source: format!("synthetic conversations, seed {seed}"), requests, duration }
}

/// Appends the requests of one conversation that begins at `at_s`.
fn converse(mut at_s: f64, next_block: &mut u64, rng: &mut SmallRng, requests: &mut Vec<Request>) {
    let mut prompt = draw(FIRST_PROMPT, rng).round() as u32;
    let mut blocks: Vec<u64> = vec![FIRST_BLOCK];
    loop {
        // The last block is incomplete, so that the next prompt replaces it.
        let count = prompt.div_ceil(BLOCK_TOKENS) as usize;
        while blocks.len() < count {
            blocks.push(*next_block);
            *next_block += 1;
        }
        let output = draw(OUTPUT, rng).round() as u32;
        // The file format has a resolution of 1 ms.
        let at = Duration::from_millis((at_s * 1e3) as u64);
        requests.push(Request { at, prompt, output, blocks: blocks.clone().into(), ..Request::default() });
        blocks.truncate((prompt / BLOCK_TOKENS).max(1) as usize);
        prompt = blocks.len() as u32 * BLOCK_TOKENS + draw(ADDED, rng).round() as u32;
        at_s += draw(PAUSE_S, rng);
        if prompt > PROMPT_MAX || !rng.random_bool(CONTINUES) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3536);

    #[test]
    fn the_same_seed_yields_the_same_trace() {
        let trace = |seed| generate(seed, Duration::from_secs(300), RATE_RPS);
        assert_eq!(trace(7), trace(7));
        assert_ne!(trace(7).requests, trace(8).requests);
        assert!(trace(7).requests.is_sorted_by_key(|request| request.at));
    }

    #[test]
    fn statistics_match_the_original() {
        let trace = generate(1, HOUR, RATE_RPS);
        let near = |what: &str, got: f64, original: f64, tolerance: f64| {
            assert!((got / original - 1.0).abs() < tolerance, "{what}: {got}, original {original}");
        };
        let summary = trace.summary();
        near("rate", summary.rate_rps, 3.4, 0.1);
        near("prompt", summary.prompt_mean, 12_035.0, 0.1);
        near("output", summary.output_mean, 342.6, 0.05);
        let (mut seen, mut known, mut blocks) = (HashSet::new(), 0, 0);
        for request in &trace.requests {
            known += request.blocks.iter().take_while(|block| seen.contains(*block)).count();
            blocks += request.blocks.len();
            seen.extend(request.blocks.iter().copied());
        }
        near("blocks that an earlier prompt has", known as f64 / blocks as f64, 0.366, 0.15);
        assert!(trace.requests.iter().all(|request| request.prompt <= PROMPT_MAX
            && request.blocks.len() == request.prompt.div_ceil(BLOCK_TOKENS) as usize));
    }
}
