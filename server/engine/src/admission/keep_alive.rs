//! Applies a holder's list of leases: makes the tables equal to the list, and renews the holder's requests under
//! concurrency limits. A holder is one gateway worker.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use evenkeel_domain::{HolderId, LEASE_MAX, PoolId};
use evenkeel_store::{Held, Repairs, counters::ReservationId};
use futures::StreamExt as _;
use tracing::warn;

use super::Admission;
use crate::{activity::gateways::Unanswered, balancer::pool_entry::PoolEntry};

/// Maximum number of lists of one KeepAlive that are applied concurrently.
const CONCURRENCY: usize = 16;

/// The leases and tickets of one holder.
#[derive(Debug)]
pub struct HolderList {
    pub holder: HolderId,
    /// The leases by pool. Routes that share a table may each list a part of the table's leases.
    pub pools: Vec<(PoolId, Held)>,
    /// Tickets of requests under concurrency limits.
    pub tickets: Vec<(ReservationId, Vec<u8>)>,
    /// Requests that the holder sent on without an answer.
    pub unanswered: Option<Unanswered>,
}

impl HolderList {
    /// Returns a list that releases all leases in these pools.
    #[must_use]
    pub fn empty(holder: HolderId, pools: Vec<PoolId>) -> Self {
        let held = || Held { issued_through: LEASE_MAX, ..Held::default() };
        Self {
            holder,
            pools: pools.into_iter().map(|pool| (pool, held())).collect(),
            tickets: Vec::new(),
            unanswered: None,
        }
    }
}

/// The result of a KeepAlive.
#[derive(Clone, Debug, Default)]
pub struct KeptAlive {
    /// Repairs in all pools.
    pub repairs: Repairs,
    /// Pools whose lists did not reach the shared table.
    pub unapplied: u32,
    /// Pools that this sidecar does not serve. The leases in all other pools are renewed.
    pub unserved: Vec<PoolId>,
}

impl Admission {
    /// Renews a holder and makes every table equal to its list. A failure in one pool does not affect the other pools.
    pub async fn keep_alive(&self, list: HolderList) -> KeptAlive {
        let HolderList { holder, pools, tickets, unanswered } = list;
        self.recorder.seen(&holder);
        if let Some(unanswered) = unanswered {
            let new = self.recorder.gateways.unanswered(&holder, &unanswered);
            self.metrics.gateways.count(new);
        }
        let (lists, unserved) = self.by_table(pools);
        let renew = async {
            if let Err(error) = self.limiter.renew(tickets).await {
                warn!(%error, "concurrent requests were not renewed: the next KeepAlive renews them");
            }
        };
        let (balancer, restores, holder) = (&self.balancer, &self.restores, &holder);
        let mut answers = futures::stream::iter(lists)
            .map(|(entry, mut held)| async move {
                restores.bound(holder, &entry, &mut held);
                let repairs = balancer.keep_alive(&entry, holder, &held).await;
                restores.applied(holder, &held.bounds, repairs.map_or(0, |repairs| repairs.restored));
                repairs
            })
            .buffer_unordered(CONCURRENCY);
        let mut kept = KeptAlive { unserved, ..KeptAlive::default() };
        let apply = async {
            while let Some(answer) = answers.next().await {
                match answer {
                    Some(repairs) => kept.repairs += repairs,
                    None => kept.unapplied += 1,
                }
            }
        };
        tokio::join!(renew, apply);
        kept
    }

    /// Joins the lists of routes that share a table, so that the list of one route does not drop the leases of another.
    fn by_table(&self, pools: Vec<(PoolId, Held)>) -> (Vec<(Arc<PoolEntry>, Held)>, Vec<PoolId>) {
        let mut lists: HashMap<PoolId, (Arc<PoolEntry>, Held)> = HashMap::with_capacity(pools.len());
        let mut unserved = Vec::new();
        for (pool, held) in pools {
            let Ok(entry) = self.balancer.directory.resolve(pool.route(), pool.cluster()) else {
                unserved.push(pool);
                continue;
            };
            match lists.entry(entry.pool.id.clone()) {
                Entry::Occupied(mut known) => known.get_mut().1.leases.extend(held.leases),
                Entry::Vacant(place) => {
                    place.insert((entry, held));
                }
            }
        }
        (lists.into_values().collect(), unserved)
    }
}
