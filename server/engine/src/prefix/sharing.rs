//! The exchange of placements with the other sidecars.

use std::sync::Arc;

use evenkeel_domain::StoreError;
use evenkeel_store::{Pool, placements::PlacementStore};
use tokio::time::Instant;

use super::{
    Prefixes,
    placements::{decode, encode},
};

impl Prefixes {
    pub(crate) fn is_used_since(&self, time: Instant) -> bool {
        self.state.lock().used_at.is_some_and(|used_at| used_at >= time)
    }

    /// Sends the placements that the other sidecars do not know, and applies theirs. After an error, the placements wait
    /// for the next exchange; others may then get them twice.
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
            let batches = encode(sidecar, &placements);
            let exchanged = match store.exchange(pool, &position, &batches).await {
                Ok(exchanged) => exchanged,
                Err(error) => {
                    self.state.lock().unshared.put_back(placements);
                    return Err(error);
                }
            };
            placements.clear();
            self.apply(sidecar, &exchanged.batches);
            let has_more = exchanged.has_more();
            position = exchanged.position;
            self.state.lock().position = position.clone();
            if !has_more {
                return Ok(());
            }
        }
    }

    /// Applies the placements of other sidecars.
    fn apply(&self, me: u64, batches: &[Vec<u8>]) {
        for (sidecar, placements) in batches.iter().filter_map(|batch| decode(batch)) {
            if sidecar == me {
                continue;
            }
            let index = &mut self.state.lock().index;
            for placement in placements {
                if placement.is_loss() {
                    index.forget(&placement.endpoint);
                } else {
                    index.place(&placement.endpoint, placement.keys, placement.unread, 0);
                    if let Some(session) = placement.session {
                        index.move_session(&placement.endpoint, session, 0);
                    }
                }
            }
        }
    }
}
