//! The exchange of placements with the other sidecars.

use std::sync::Arc;

use evenkeel_domain::StoreError;
use evenkeel_store::{Pool, placements::PlacementStore};
use tokio::time::Instant;

use super::{
    Prefixes,
    placements::{decode, encode},
};

/// Maximum number of batches added in one call: few, because others' calls wait for it in Redis.
const BATCHES_ADDED_MAX: usize = 8;

impl Prefixes {
    pub(crate) fn is_used_since(&self, time: Instant) -> bool {
        self.state.lock().used_at.is_some_and(|used_at| used_at >= time)
    }

    /// Sends the placements that the other sidecars do not know, and applies theirs. After an error, the rest waits for the
    /// next exchange; others may then get a few of them twice.
    pub(crate) async fn exchange(
        &self,
        pool: &Arc<Pool>,
        store: &dyn PlacementStore,
        sidecar: u64,
    ) -> Result<(), StoreError> {
        let (mut position, mut placements) = {
            let mut state = self.state.lock();
            (state.position.clone(), state.unshared.take())
        };
        loop {
            let (mut batches, mut sent) = (Vec::new(), 0);
            while sent < placements.len() && batches.len() < BATCHES_ADDED_MAX {
                let (batch, count) = encode(sidecar, &placements[sent..]);
                batches.push(batch);
                sent += count.max(1);
            }
            let exchanged = match store.exchange(pool, &position, &batches).await {
                Ok(exchanged) => exchanged,
                Err(error) => {
                    self.state.lock().unshared.put_back(placements);
                    return Err(error);
                }
            };
            placements.drain(..sent.min(placements.len()));
            for (sender, news) in exchanged.batches.iter().filter_map(|batch| decode(batch)) {
                if sender != sidecar {
                    self.state.lock().apply(news);
                    // Requests come in between.
                    tokio::task::yield_now().await;
                }
            }
            let has_more = exchanged.has_more();
            position = exchanged.position;
            self.state.lock().position = position.clone();
            if !has_more && placements.is_empty() {
                return Ok(());
            }
        }
    }
}
