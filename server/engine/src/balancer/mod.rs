//! Admit, Settle and KeepAlive for one pool: applies endpoints, policies and drains, then calls the store.

use std::sync::Arc;

use evenkeel_domain::{
    DomainError, HolderId, LeaseId, PoolId, StoreError,
    activity::{
        Counts,
        RepairKind::{Dropped, Moved, Restored},
    },
    choice::{Policy, Prompt},
    verdict::{Reason, Verdict},
};
use evenkeel_store::{Admit, Held, Release, Repairs, Store};
use evenkeel_telemetry::Metrics;
use rand::{RngCore as _, SeedableRng as _, rngs::SmallRng};
use tracing::debug;

use crate::{
    activity::{Recorder, report::PoolTotals},
    prefix::{Answer, Placed, PromptPrefix},
};

pub mod directory;
mod drained;
pub mod drains;
pub mod pool_entry;
pub mod sharing;
pub mod sweep;
pub mod view;

use directory::Directory;
use pool_entry::{Candidate, PoolEntry};

/// Picks endpoints, and takes and gives back leases on them.
pub struct Balancer {
    pub directory: Directory,
    pub store: Arc<dyn Store>,
    pub recorder: Arc<Recorder>,
    metrics: Arc<Metrics>,
}

/// A request for an endpoint.
#[derive(Debug)]
pub struct PickRequest {
    pub route: Arc<str>,
    pub cluster: Arc<str>,
    pub holder: HolderId,
    pub lease: LeaseId,
    /// Endpoints that the request offers. If empty, the pool's own endpoints are used.
    pub offered: Vec<Candidate>,
    /// Estimated size of the prompt in tokens. `None` if unknown.
    pub prompt_tokens: Option<u64>,
    /// The session and the beginning of the prompt, as far as the gateway reports them and the pool considers them.
    pub prefix: PromptPrefix,
}

/// The verdict on a request for an endpoint.
#[derive(Debug)]
pub struct Picked {
    pub verdict: Verdict,
    /// What the index of prefixes records once the request is admitted.
    placed: Option<Placed>,
}

thread_local! {
    static TIES: std::cell::RefCell<SmallRng> = std::cell::RefCell::new(SmallRng::from_rng(&mut rand::rng()));
}

impl Balancer {
    #[must_use]
    pub fn new(
        directory: Directory,
        store: Arc<dyn Store>,
        recorder: Arc<Recorder>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { directory, store, recorder, metrics }
    }

    /// Picks an endpoint of the pool and takes a lease on it.
    ///
    /// # Errors
    /// If the request is invalid or the store fails. A refusal is a verdict, not an error.
    pub async fn pick(&self, entry: &PoolEntry, request: PickRequest) -> Result<Picked, DomainError> {
        let PickRequest { route, cluster, holder, lease, offered, prompt_tokens, prefix } = request;
        entry.mark_used();
        let some_offered = !offered.is_empty();
        let roster = entry.roster(offered)?;
        if roster.is_empty() {
            let any = some_offered || !entry.own_roster().is_empty();
            let reason = if any { Reason::AllDrained } else { Reason::NoEndpoints };
            return Ok(Picked { verdict: Verdict::Refused(reason), placed: None });
        }
        let by_work = entry.rule.policy == Policy::LeastWork;
        let tokens = if by_work { entry.prompt_size(prompt_tokens) } else { 0 };
        let prefixes = entry.prefixes.as_ref().filter(|_| !prefix.is_empty());
        let found = prefixes.map(|prefixes| prefixes.look_up(prefix, tokens));
        let cached = found.as_ref().map_or_else(Vec::new, |found| found.cached.clone());
        let admit = Admit {
            pool: Arc::clone(&entry.pool),
            holder,
            lease,
            tie: TIES.with_borrow_mut(SmallRng::next_u32),
            prompt: by_work.then_some(Prompt { tokens, cached }),
            on_failure: entry.rule.on_store_failure,
            roster,
        };
        let stays_at = found.as_ref().and_then(|found| found.stays_at.as_deref());
        let verdict =
            self.admit(entry, admit, stays_at).await.map_err(DomainError::store("taking a lease"))?;
        debug!(%route, %cluster, %lease, ?verdict, "admit");
        let placed = match (&verdict, found) {
            (Verdict::Admitted { endpoint: Some(endpoint), unread, .. }, Some(found)) => {
                Some(Placed { endpoint: Arc::clone(endpoint), unread: *unread, found })
            }
            _ => None,
        };
        Ok(Picked { verdict, placed })
    }

    /// Takes a lease: on the endpoint at which the request must stay, or on any if that endpoint is not in the roster or
    /// at its cap.
    async fn admit(
        &self,
        entry: &PoolEntry,
        admit: Admit,
        stays_at: Option<&str>,
    ) -> Result<Verdict, StoreError> {
        if let Some(endpoint) = stays_at.and_then(|address| admit.roster.get(address)) {
            let roster = entry.alone(endpoint);
            let verdict = self.store.admit(Admit { roster, ..admit.clone() }).await?;
            if verdict != Verdict::Refused(Reason::PoolFull) {
                return Ok(verdict);
            }
        }
        self.store.admit(admit).await
    }

    /// Records that an admitted request goes to the endpoint that was picked.
    pub fn placed(&self, entry: &PoolEntry, holder: &HolderId, lease: LeaseId, picked: Picked) {
        if let (Some(prefixes), Some(placed)) = (&entry.prefixes, picked.placed) {
            prefixes.placed(holder, lease, placed);
        }
    }

    /// Settles a lease, and learns from the answer to its request what its endpoint had in its prefix cache.
    ///
    /// # Errors
    /// If the pool is invalid or the store fails.
    pub async fn settle(
        &self,
        route: &str,
        cluster: &str,
        holder: &HolderId,
        lease: LeaseId,
        answer: Answer,
    ) -> Result<Release, DomainError> {
        let entry = self.directory.resolve(route, cluster)?;
        if let Some(prefixes) = &entry.prefixes {
            prefixes.responded(holder, lease, answer);
        }
        let released = self.store.release(&entry.pool, holder, lease).await;
        let settles = &self.metrics.settles;
        match &released {
            Ok(release) if release.is_released() => &settles.released,
            Ok(_) => &settles.unknown,
            Err(_) => &settles.error,
        }
        .inc();
        released.map_err(DomainError::store("settling a lease"))
    }

    /// Records that the answer to a request has begun.
    ///
    /// # Errors
    /// If the pool is invalid or the store fails. The next KeepAlive repeats the report.
    pub async fn first_token(
        &self,
        pool: &PoolId,
        holder: &HolderId,
        lease: LeaseId,
    ) -> Result<(), DomainError> {
        let entry = self.directory.resolve(pool.route(), pool.cluster())?;
        let answer = self.store.first_token(&entry.pool, holder, lease).await;
        answer.map_err(DomainError::store("recording a first token"))
    }

    /// Releases the lease of a request that a limit has refused. Not counted as a settlement, because no gateway sent
    /// one.
    pub async fn roll_back(&self, entry: &PoolEntry, holder: &HolderId, lease: LeaseId) {
        if let Err(error) = self.store.settle(&entry.pool, holder, lease).await {
            debug!(%error, %lease, "the lease of a refused request stays until the next KeepAlive");
        }
    }

    /// Keeps a holder alive in one pool, and makes the shared table equal to the holder's list. Returns `None` if the
    /// list did not reach the shared table.
    pub async fn keep_alive(&self, entry: &PoolEntry, holder: &HolderId, held: &Held) -> Option<Repairs> {
        entry.mark_used();
        let answer = self.store.keep_alive(&entry.pool, holder, held).await;
        let Ok(repairs) =
            answer.inspect_err(|error| debug!(%error, pool = %entry.pool.id, "KeepAlive not applied"))
        else {
            self.metrics.keep_alives.unapplied.inc();
            return None;
        };
        self.metrics.keep_alives.ok.inc();
        let Repairs { restored, dropped, moved, refused } = repairs;
        if refused > 0 {
            self.metrics.repairs.refused.inc_by(refused);
            debug!(%holder, pool = %entry.pool.id, refused, "a holder lists more leases than it may restore");
        }
        self.metrics.repairs.restored.inc_by(restored);
        self.metrics.repairs.dropped.inc_by(dropped);
        self.metrics.repairs.moved.inc_by(moved);
        for (kind, count) in [(Restored, restored), (Dropped, dropped), (Moved, moved)] {
            self.recorder.repaired(kind, &entry.pool.id, Some(holder), count);
        }
        Some(repairs)
    }
}

impl PoolTotals for Balancer {
    fn totals(&self) -> Vec<(PoolId, Counts)> {
        let pools = self.directory.all();
        pools.iter().map(|entry| (entry.pool.id.clone(), entry.counts.read())).collect()
    }
}
