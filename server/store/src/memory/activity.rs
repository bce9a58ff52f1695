//! Activity in this process's memory: the embedded store, and the reference for the store in Redis.

use std::collections::{BTreeMap, HashMap, VecDeque};

use async_trait::async_trait;
use evenkeel_domain::{
    StoreError,
    activity::{FullestKey, PoolSteps, QuotaCharges, Refused, Repair, Resolution, SidecarStatus},
    clock::unix_ms,
};
use parking_lot::Mutex;

use crate::activity::{ActivityStore, REFUSAL_KEPT_MS, REFUSALS_MAX, REPAIRS_MAX, Report, page_kept_ms};

/// Maximum number of refusals stored by request id.
const REFUSALS_BY_ID_MAX: usize = 100_000;

#[derive(Default)]
pub struct MemoryActivity {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    statuses: BTreeMap<String, SidecarStatus>,
    fullest_keys: BTreeMap<String, Vec<FullestKey>>,
    charges: BTreeMap<String, Vec<QuotaCharges>>,
    pages: BTreeMap<(Resolution, u64), BTreeMap<String, Vec<PoolSteps>>>,
    by_id: HashMap<String, Refused>,
    /// Time and request id of each refusal in `by_id`, oldest first.
    ids: VecDeque<(u64, String)>,
    refusals: VecDeque<Refused>,
    repairs: VecDeque<Repair>,
}

#[async_trait]
impl ActivityStore for MemoryActivity {
    async fn report(&self, sidecar: &str, report: &Report) -> Result<(), StoreError> {
        let (mut kept, key) = (self.kept.lock(), sidecar.to_owned());
        if let Some(status) = &report.status {
            let status = SidecarStatus { seen_at_ms: unix_ms(), ..status.clone() };
            kept.statuses.insert(key.clone(), status);
        }
        if let Some(fullest_keys) = &report.fullest_keys {
            kept.fullest_keys.insert(key.clone(), fullest_keys.clone());
        }
        if let Some(charges) = &report.charges {
            kept.charges.insert(key, charges.clone());
        }
        Ok(())
    }

    async fn statuses(&self) -> Result<Vec<SidecarStatus>, StoreError> {
        Ok(self.kept.lock().statuses.values().cloned().collect())
    }

    async fn fullest_keys(&self) -> Result<Vec<Vec<FullestKey>>, StoreError> {
        Ok(self.kept.lock().fullest_keys.values().cloned().collect())
    }

    async fn quota_charges(&self) -> Result<Vec<Vec<QuotaCharges>>, StoreError> {
        Ok(self.kept.lock().charges.values().cloned().collect())
    }

    async fn forget(&self, sidecars: &[String]) -> Result<(), StoreError> {
        let mut kept = self.kept.lock();
        for sidecar in sidecars {
            kept.statuses.remove(sidecar);
            kept.fullest_keys.remove(sidecar);
            kept.charges.remove(sidecar);
        }
        Ok(())
    }

    async fn put_page(
        &self,
        sidecar: &str,
        resolution: Resolution,
        page_ms: u64,
        pools: &[PoolSteps],
    ) -> Result<(), StoreError> {
        let mut kept = self.kept.lock();
        let page = kept.pages.entry((resolution, page_ms)).or_default();
        page.insert(sidecar.to_owned(), pools.to_vec());
        kept.pages.retain(|(resolution, start), _| start + page_kept_ms(*resolution) > page_ms);
        Ok(())
    }

    async fn page(&self, resolution: Resolution, page_ms: u64) -> Result<Vec<Vec<PoolSteps>>, StoreError> {
        let kept = self.kept.lock();
        Ok(kept.pages.get(&(resolution, page_ms)).map_or_else(Vec::new, |p| p.values().cloned().collect()))
    }

    async fn add_refusals(&self, refusals: &[Refused]) -> Result<(), StoreError> {
        let (mut kept, now) = (self.kept.lock(), unix_ms());
        for refused in refusals {
            if !refused.request_id.is_empty() {
                if kept.by_id.insert(refused.request_id.clone(), refused.clone()).is_some() {
                    kept.ids.retain(|(_, id)| *id != refused.request_id);
                }
                kept.ids.push_back((now, refused.request_id.clone()));
            }
            kept.refusals.push_front(refused.clone());
        }
        kept.refusals.truncate(REFUSALS_MAX);
        while kept.ids.len() > REFUSALS_BY_ID_MAX
            || kept.ids.front().is_some_and(|(at, _)| at + REFUSAL_KEPT_MS < now)
        {
            let Some((_, id)) = kept.ids.pop_front() else { break };
            kept.by_id.remove(&id);
        }
        Ok(())
    }

    async fn refusal(&self, request_id: &str) -> Result<Option<Refused>, StoreError> {
        Ok(self.kept.lock().by_id.get(request_id).cloned())
    }

    async fn refusals(&self) -> Result<Vec<Refused>, StoreError> {
        Ok(self.kept.lock().refusals.iter().cloned().collect())
    }

    async fn add_repairs(&self, repairs: &[Repair]) -> Result<(), StoreError> {
        let mut kept = self.kept.lock();
        repairs.iter().for_each(|repair| kept.repairs.push_front(repair.clone()));
        kept.repairs.truncate(REPAIRS_MAX);
        Ok(())
    }

    async fn repairs(&self) -> Result<Vec<Repair>, StoreError> {
        Ok(self.kept.lock().repairs.iter().cloned().collect())
    }
}
