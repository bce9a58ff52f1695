//! The rule of the policy `prefix_cache` of Higress's plugin `ai-load-balancer`, with a bound on the load.
//!
//! The plugin stores in Redis, for 1,800 s after its last use, which host got each prefix of the messages. A request goes
//! to the host of its longest known prefix, whatever its load, or without one to the host with the fewest requests in
//! flight. On traces whose prompts all begin with the same text, that rule sends everything to one host. The model
//! therefore adds what users of such a rule add: a minimum length of the prefix and a bound on the load. It also knows
//! prefixes by blocks instead of messages, and every host that got one.

use std::time::Duration;

use rand::{Rng, rngs::SmallRng};

use super::{Lifetime, PrefixIndex, tokens};

/// The plugin's default for `redisKeyTTL`.
const LIFETIME: Duration = Duration::from_secs(1800);
/// A shorter common prefix, such as a system prompt, saves too little to decide.
const MATCHED_BLOCKS_MIN: u32 = 4;
/// Requests that a host may have, as a multiple of the mean of all hosts.
const BOUND: f64 = 1.5;

#[derive(Clone, Debug)]
pub struct HigressPrefix {
    index: PrefixIndex,
}

impl HigressPrefix {
    pub fn new(hosts: usize) -> Self {
        Self { index: PrefixIndex::new(hosts, Lifetime::Time(LIFETIME)) }
    }

    /// Chooses a host for a prompt of `prompt` tokens with these complete blocks, and remembers that it gets them. Breaks
    /// ties at random. `in_flight` has the requests in flight on each host, and `now` is the time in the trace.
    ///
    /// # Panics
    /// If there are no hosts.
    pub fn choose(
        &mut self,
        in_flight: &[u64],
        prompt: u32,
        blocks: &[u64],
        now: Duration,
        rng: &mut SmallRng,
    ) -> usize {
        let matched = self.index.matched(blocks, now);
        let mean = in_flight.iter().sum::<u64>() as f64 / in_flight.len().max(1) as f64;
        let has_room = |host: &usize| in_flight[*host] as f64 + 1.0 <= BOUND * (mean + 1.0);
        let longest = (0..in_flight.len()).filter(has_room).map(|host| matched[host]).max().unwrap_or(0);
        let is_candidate =
            |host: &usize| longest < MATCHED_BLOCKS_MIN || (matched[*host] == longest && has_room(host));
        let candidates: Vec<usize> = (0..in_flight.len()).filter(is_candidate).collect();
        let fewest = candidates.iter().map(|host| in_flight[*host]).min();
        let equals: Vec<usize> =
            candidates.into_iter().filter(|host| Some(in_flight[*host]) == fewest).collect();
        let host = equals[rng.random_range(0..equals.len())];
        let unread = u64::from(prompt).saturating_sub(tokens(matched[host]));
        self.index.record(host, blocks, unread, now);
        host
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn choose(rule: &mut HigressPrefix, in_flight: &[u64], blocks: &[u64], at_s: u64) -> usize {
        let mut rng = SmallRng::seed_from_u64(at_s);
        rule.choose(in_flight, 4096, blocks, Duration::from_secs(at_s), &mut rng)
    }

    #[test]
    fn the_longest_prefix_wins_over_the_fewest_requests() {
        let mut rule = HigressPrefix::new(3);
        assert_eq!(choose(&mut rule, &[1, 0, 1], &[1, 2, 3, 4], 0), 1);
        assert_eq!(choose(&mut rule, &[1, 2, 1], &[1, 2, 3, 4, 5], 1), 1);
        // Three shared blocks are not enough.
        assert_eq!(choose(&mut rule, &[1, 1, 0], &[1, 2, 3, 9], 2), 2);
        // The prefix was used last at 1 s.
        assert_eq!(choose(&mut rule, &[1, 2, 2], &[1, 2, 3, 4], 1802), 0);
    }

    #[test]
    fn a_host_above_the_bound_gets_no_request() {
        let mut rule = HigressPrefix::new(2);
        assert_eq!(choose(&mut rule, &[0, 1], &[1, 2, 3, 4], 0), 0);
        assert_eq!(choose(&mut rule, &[5, 2], &[1, 2, 3, 4], 1), 0);
        assert_eq!(choose(&mut rule, &[10, 2], &[1, 2, 3, 4], 2), 1);
        // Now both hosts have the prefix.
        assert_eq!(choose(&mut rule, &[3, 2], &[1, 2, 3, 4], 3), 1);
    }
}
