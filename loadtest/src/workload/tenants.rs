//! Several models and consumers in one trace. Public traces name neither.

use std::collections::HashMap;

use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::Workload;

/// Shared blocks from which on two prompts belong to one conversation. Fewer are a system prompt, which many share.
const CONVERSATION_BLOCKS_MIN: usize = 2;

impl Workload {
    /// Renames the models by the number of the replay, so that replays share no prefixes with each other.
    #[must_use]
    pub fn for_replay(&self, replay: u32) -> Self {
        let models = self.requests.iter().map(|request| request.model).max().map_or(1, |model| model + 1);
        let mut workload = self.clone();
        for request in &mut workload.requests {
            request.model += replay * models;
        }
        workload
    }

    /// Returns the same requests for `models` models from `consumers` consumers; with 0 consumers, requests name none. Each
    /// conversation has one model and one consumer. The model and the consumer number `k` have weight `1 / k`, so that
    /// some are popular and others rare. The same seed yields the same assignment.
    #[must_use]
    pub fn with_tenants(mut self, models: u32, consumers: u32, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut conversations: HashMap<u64, (u32, u32)> = HashMap::new();
        for request in &mut self.requests {
            let known = request.blocks.iter().enumerate();
            let known = known.take_while(|(depth, block)| *depth == 0 || conversations.contains_key(*block));
            let last = known.last().filter(|(depth, _)| *depth + 1 >= CONVERSATION_BLOCKS_MIN);
            let tenant = match last.and_then(|(_, block)| conversations.get(block)) {
                Some(tenant) => *tenant,
                None => (
                    draw(models.max(1), &mut rng),
                    if consumers == 0 { 0 } else { draw(consumers, &mut rng) + 1 },
                ),
            };
            (request.model, request.consumer) = tenant;
            for block in request.blocks.iter().skip(CONVERSATION_BLOCKS_MIN - 1) {
                conversations.entry(*block).or_insert(tenant);
            }
        }
        self
    }
}

/// Draws a number below `count`. Number `k` has weight `1 / (k + 1)`.
fn draw(count: u32, rng: &mut SmallRng) -> u32 {
    let weight = |k: &u32| 1.0 / f64::from(k + 1);
    let mut left = rng.random::<f64>() * (0..count).map(|k| weight(&k)).sum::<f64>();
    let drawn = (0..count).find(|k| {
        left -= weight(k);
        left < 0.0
    });
    drawn.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, time::Duration};

    use super::*;
    use crate::workload::{Request, conversations};

    fn trace() -> Workload {
        conversations::generate(1, Duration::from_secs(600), 3.0)
    }

    #[test]
    fn a_conversation_keeps_its_model_and_consumer() {
        let trace = trace().with_tenants(3, 20, 1);
        let mut owners: HashMap<u64, (u32, u32)> = HashMap::new();
        let mut continued = 0;
        for Request { blocks, model, consumer, .. } in &trace.requests {
            for block in &blocks[1..] {
                let owner = owners.insert(*block, (*model, *consumer));
                assert!(owner.is_none_or(|owner| owner == (*model, *consumer)));
                continued += usize::from(owner.is_some());
            }
        }
        assert!(continued > 100, "{continued}");
        let models: HashSet<u32> = trace.requests.iter().map(|request| request.model).collect();
        let consumers: HashSet<u32> = trace.requests.iter().map(|request| request.consumer).collect();
        assert_eq!((models, consumers), ((0..3).collect(), (1..=20).collect()));
    }

    #[test]
    fn replays_share_no_models() {
        let trace = trace().with_tenants(3, 0, 1);
        let models = |replay| -> HashSet<u32> {
            trace.for_replay(replay).requests.iter().map(|request| request.model).collect()
        };
        assert_eq!((models(0), models(1)), ((0..3).collect(), (3..6).collect()));
        assert_eq!(trace.for_replay(0), trace);
    }

    #[test]
    fn the_same_seed_yields_the_same_tenants() {
        assert_eq!(trace().with_tenants(3, 20, 7), trace().with_tenants(3, 20, 7));
        assert_ne!(trace().with_tenants(3, 20, 7), trace().with_tenants(3, 20, 8));
        assert_eq!(trace().with_tenants(1, 0, 7), trace());
    }

    /// The text is the same, but a server keeps a prefix for each model.
    #[test]
    fn models_share_no_prefixes() {
        let of_model = |model| Request { prompt: 1024, blocks: [5, 6].into(), model, ..Request::default() };
        let [a, b] = [of_model(0), of_model(1)];
        assert_eq!(*a.cache_blocks(), [5, 6]);
        assert_eq!(a.cache_blocks(), of_model(0).cache_blocks());
        assert!(b.cache_blocks().iter().all(|block| !a.cache_blocks().contains(block)));
    }
}
