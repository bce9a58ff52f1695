//! What a balancer knows of the hosts' prefix caches if it sees only its own choices: which hosts lately got a prompt with
//! which blocks.

mod higress;

use std::{collections::HashMap, time::Duration};

pub use higress::HigressPrefix;

use crate::engine::BLOCK_TOKENS;

/// How long a host counts as having a block.
#[derive(Clone, Copy, Debug)]
pub enum Lifetime {
    Time(Duration),
    /// Until the host has been assigned this many new tokens: as many as its cache holds.
    AssignedTokens(u64),
}

/// The hosts that got each block. It grows with the distinct blocks of the trace.
#[derive(Clone, Debug)]
pub struct PrefixIndex {
    lifetime: Lifetime,
    /// For each block, the hosts that got it, and what [`Self::age`] was there at that time.
    blocks: HashMap<u64, Vec<(usize, u64)>>,
    /// New tokens assigned to each host so far.
    assigned: Vec<u64>,
}

impl PrefixIndex {
    pub fn new(hosts: usize, lifetime: Lifetime) -> Self {
        Self { lifetime, blocks: HashMap::new(), assigned: vec![0; hosts] }
    }

    /// Returns for each host how many of the first blocks of a prompt it got before. `now` is the time in the trace. Requests
    /// that arrive almost at once may come in another order than that of their times.
    pub fn matched(&self, blocks: &[u64], now: Duration) -> Vec<u32> {
        let mut matched = vec![0; self.assigned.len()];
        for (depth, block) in (0u32..).zip(blocks) {
            let holders = self.blocks.get(block).into_iter().flatten();
            let mut is_known = false;
            for (host, at) in holders {
                // A host that lacks an earlier block has no use of this one.
                let age = self.age(*host, now).saturating_sub(*at);
                if matched[*host] == depth && age <= self.lifetime_max() {
                    matched[*host] += 1;
                    is_known = true;
                }
            }
            if !is_known {
                break;
            }
        }
        matched
    }

    /// Records that a host gets a prompt with these blocks, from which it must read `unread` tokens.
    pub fn record(&mut self, host: usize, blocks: &[u64], unread: u64, now: Duration) {
        self.assigned[host] += unread;
        let age = self.age(host, now);
        for block in blocks {
            let holders = self.blocks.entry(*block).or_default();
            match holders.iter_mut().find(|(holder, _)| *holder == host) {
                Some((_, at)) => *at = age.max(*at),
                None => holders.push((host, age)),
            }
        }
    }

    /// Returns what the lifetime is measured in, as it stands at a host: milliseconds or tokens.
    fn age(&self, host: usize, now: Duration) -> u64 {
        match self.lifetime {
            Lifetime::Time(_) => millis(now),
            Lifetime::AssignedTokens(_) => self.assigned[host],
        }
    }

    fn lifetime_max(&self) -> u64 {
        match self.lifetime {
            Lifetime::Time(time) => millis(time),
            Lifetime::AssignedTokens(tokens) => tokens,
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the tokens of a number of blocks.
pub fn tokens(blocks: u32) -> u64 {
    u64::from(blocks) * u64::from(BLOCK_TOKENS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::ZERO;

    #[test]
    fn hosts_match_as_far_as_they_got_every_block() {
        let mut index = PrefixIndex::new(3, Lifetime::AssignedTokens(10_000));
        index.record(0, &[1, 2, 3], 1536, START);
        index.record(1, &[1, 9, 3], 1536, START);
        assert_eq!(index.matched(&[1, 2, 3, 4], START), [3, 1, 0]);
        assert_eq!(index.matched(&[7, 2, 3], START), [0, 0, 0]);
        assert_eq!(index.matched(&[], START), [0, 0, 0]);
    }

    #[test]
    fn entries_end_after_their_time_or_their_tokens() {
        let lifetime = Duration::from_secs(60);
        let mut index = PrefixIndex::new(1, Lifetime::Time(lifetime));
        index.record(0, &[1, 2], 1024, START);
        index.record(0, &[1], 0, lifetime / 2);
        assert_eq!(index.matched(&[1, 2], lifetime), [2]);
        assert_eq!(index.matched(&[1, 2], lifetime + Duration::from_millis(1)), [1]);

        index.record(0, &[1], 0, START);
        assert_eq!(index.matched(&[1], lifetime), [1]);
        assert_eq!(index.matched(&[1], START), [1]);

        let mut index = PrefixIndex::new(2, Lifetime::AssignedTokens(1000));
        index.record(0, &[1, 2], 1024, START);
        index.record(1, &[1, 2], 1024, START);
        index.record(0, &[1], 1001, START);
        // What another host gets does not matter.
        assert_eq!(index.matched(&[1, 2], START), [1, 2]);
    }
}
