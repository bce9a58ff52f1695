//! This sidecar's counts of requests by pool and time step, until they have been written to the store.

use std::collections::{BTreeMap, HashMap};

use evenkeel_domain::{
    PoolId,
    activity::{ADMIT_RESULTS, Counts, PoolSteps, Resolution, STEPS, add},
};

/// Maximum number of pools in one page. Further pools are counted under [`OTHER`].
const POOLS_MAX: usize = 500;
/// The cluster under which further pools are counted.
pub(super) const OTHER: &str = "(other)";

type Steps = [Counts; STEPS as usize];

#[derive(Default)]
struct Page {
    pools: HashMap<(String, String), Steps>,
    dirty: bool,
}

/// The pages that have not ended or have not been written to the store.
#[derive(Default)]
pub(super) struct Pages {
    pages: BTreeMap<(Resolution, u64), Page>,
    /// The totals of each pool at the last call of [`Self::read`].
    read: HashMap<PoolId, Counts>,
}

impl Pages {
    /// Adds the increase of each pool's totals since the last call.
    pub(super) fn read<'a>(&mut self, pools: impl Iterator<Item = (&'a PoolId, Counts)>, now_ms: u64) {
        let mut read = HashMap::with_capacity(self.read.len());
        for (id, counts) in pools {
            let before = self.read.get(id).copied().unwrap_or_default();
            let mut more = [0; ADMIT_RESULTS];
            for ((more, now), before) in more.iter_mut().zip(counts).zip(before) {
                // If a pool was evicted and created again, its totals start from 0.
                *more = if now >= before { now - before } else { now };
            }
            read.insert(id.clone(), counts);
            if more != [0; ADMIT_RESULTS] {
                Resolution::ALL.into_iter().for_each(|resolution| self.add(resolution, id, &more, now_ms));
            }
        }
        self.read = read;
    }

    fn add(&mut self, resolution: Resolution, id: &PoolId, more: &Counts, now_ms: u64) {
        let (start, step) = resolution.place(now_ms);
        let page = self.pages.entry((resolution, start)).or_default();
        page.dirty = true;
        let mut key = (id.route().to_owned(), id.cluster().to_owned());
        if page.pools.len() >= POOLS_MAX && !page.pools.contains_key(&key) {
            key = (String::new(), OTHER.to_owned());
        }
        add(&mut page.pools.entry(key).or_default()[step], more);
    }

    /// Returns the pages that must be written to the store, oldest first.
    pub(super) fn dirty(&self) -> Vec<(Resolution, u64, Vec<PoolSteps>)> {
        let dirty = self.pages.iter().filter(|(_, page)| page.dirty);
        dirty
            .map(|((resolution, start), page)| {
                let pools = page.pools.iter().map(|((route, cluster), steps)| PoolSteps {
                    route: route.clone(),
                    cluster: cluster.clone(),
                    steps: steps
                        .iter()
                        .copied()
                        .enumerate()
                        .filter(|(_, counts)| *counts != [0; ADMIT_RESULTS])
                        .collect(),
                });
                (*resolution, *start, pools.collect())
            })
            .collect()
    }

    /// Records that the store has confirmed a page that [`Self::dirty`] returned.
    pub(super) fn written(&mut self, resolution: Resolution, start: u64) {
        if let Some(page) = self.pages.get_mut(&(resolution, start)) {
            page.dirty = false;
        }
    }

    /// Makes all pages dirty, because the store has lost them.
    pub(super) fn mark_dirty(&mut self) {
        self.pages.values_mut().for_each(|page| page.dirty = true);
    }

    /// Drops the pages that have ended and were written, and the pages that are too old to be shown.
    pub(super) fn forget_old(&mut self, now_ms: u64) {
        self.pages.retain(|(resolution, start), page| {
            let is_open = start + resolution.page_ms() > now_ms;
            let is_shown = start + resolution.page_ms() + resolution.span_max_ms() > now_ms;
            is_open || (page.dirty && is_shown)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(cluster: &str) -> PoolId {
        PoolId::new("", cluster).unwrap()
    }

    fn counts(shared: u64) -> Counts {
        let mut counts = [0; ADMIT_RESULTS];
        counts[0] = shared;
        counts
    }

    #[test]
    fn growth_is_counted_in_the_current_step() {
        let (mut pages, a) = (Pages::default(), id("a"));
        pages.read([(&a, counts(5))].into_iter(), 1_000);
        pages.read([(&a, counts(7))].into_iter(), 119_999);
        pages.read([(&a, counts(7))].into_iter(), 119_999);
        let dirty = pages.dirty();
        assert_eq!(dirty.len(), 2, "one page each of fine and coarse steps");
        assert_eq!(dirty[0].2[0].steps, [(0, counts(5)), (11, counts(2))]);
        assert_eq!(dirty[1].2[0].steps, [(0, counts(7))]);
        pages.written(dirty[0].0, dirty[0].1);
        assert_eq!(pages.dirty().len(), 1);
        // The pool was evicted and created again, so its totals start from 0.
        pages.read([(&a, counts(1))].into_iter(), 120_000);
        assert_eq!(pages.dirty()[0].2[0].steps, [(0, counts(1))]);
        pages.forget_old(120_000);
        assert_eq!(pages.pages.len(), 2, "the first fine page is over and written");
        pages.forget_old(u64::MAX / 2);
        assert!(pages.pages.is_empty());
    }

    #[test]
    fn further_pools_are_counted_together() {
        let mut pages = Pages::default();
        let ids: Vec<PoolId> = (0..POOLS_MAX + 9).map(|i| id(&format!("c{i}"))).collect();
        pages.read(ids.iter().map(|id| (id, counts(1))), 0);
        let (_, _, pools) = pages.dirty().swap_remove(0);
        assert_eq!(pools.len(), POOLS_MAX + 1);
        let other = pools.iter().find(|pool| pool.cluster == OTHER).unwrap();
        assert_eq!(other.steps, [(0, counts(9))]);
    }
}
