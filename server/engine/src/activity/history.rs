//! Joins the reports of all sidecars and answers queries from them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use evenkeel_domain::{
    StoreError,
    activity::{
        ADMIT_RESULTS, Counts, FullestKey, PoolSteps, Refused, Repair, Resolution, STEPS, SidecarStatus, add,
    },
    clock::unix_ms,
};
use evenkeel_store::activity::ActivityStore;
use futures::{StreamExt as _, TryStreamExt as _};
use parking_lot::Mutex;

use super::{
    burn_rate::{self, BurnRate},
    cached::{Cached, FRESH},
    fullest_keys::is_current,
};

/// How long a page is cached after the page has ended. A sidecar that was disconnected may still write to such a page.
const FRESH_OVER: Duration = Duration::from_secs(30);
/// Maximum number of pages read concurrently.
const CONCURRENCY: usize = 4;
/// How long a stopped sidecar remains listed, in ms.
const LISTED_MS: u64 = 600_000;
/// A sidecar counts as stopped after this number of intervals without a report.
const INTERVALS_MISSED_MAX: u64 = 5;

/// Results of requests by time step.
#[derive(Clone, Debug, PartialEq)]
pub struct Steps {
    /// Duration of a step in ms.
    pub step_ms: u64,
    /// Start of the first step, in ms since the Unix epoch.
    pub from_ms: u64,
    /// Counts of each step, oldest first. The last step has not ended yet.
    pub counts: Vec<Counts>,
}

/// Results of requests in the steps of one page, by route and cluster, summed over all sidecars.
type Page = HashMap<(String, String), [Counts; STEPS as usize]>;

type Pages = HashMap<(Resolution, u64), Arc<Cached<Page>>>;

/// Answers queries from the reports of all sidecars. Caches what it reads from the store.
pub struct History {
    store: Arc<dyn ActivityStore>,
    pages: Mutex<Pages>,
    statuses: Cached<Vec<SidecarStatus>>,
    fullest_keys: Cached<Vec<FullestKey>>,
    burn_rates: Cached<Vec<BurnRate>>,
    refusals: Cached<Vec<Refused>>,
    repairs: Cached<Vec<Repair>>,
}

impl History {
    #[must_use]
    pub fn new(store: Arc<dyn ActivityStore>) -> Self {
        Self {
            store,
            pages: Mutex::default(),
            statuses: Cached::default(),
            fullest_keys: Cached::default(),
            burn_rates: Cached::default(),
            refusals: Cached::default(),
            repairs: Cached::default(),
        }
    }

    /// Returns the sidecars sorted by name, and whether each is alive. Includes sidecars that stopped within the last
    /// ten minutes.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn sidecars(&self) -> Result<Vec<(SidecarStatus, bool)>, StoreError> {
        let statuses = self.statuses.get_or_read(FRESH, self.store.statuses()).await?;
        // This sidecar reports too, so the newest report is at most one interval older than the store's clock.
        let now = statuses.iter().map(|status| status.seen_at_ms).max().unwrap_or(0);
        let listed = statuses.iter().filter(|status| status.seen_at_ms + LISTED_MS >= now);
        let mut listed: Vec<_> = listed
            .map(|status| {
                let is_reporting = status.seen_at_ms + INTERVALS_MISSED_MAX * status.interval_ms >= now;
                (status.clone(), is_reporting && !status.ended)
            })
            .collect();
        listed.sort_by(|(a, _), (b, _)| (&a.name, a.started_at_ms).cmp(&(&b.name, b.started_at_ms)));
        Ok(listed)
    }

    /// Returns the results of requests in the last `span_ms`, in one pool (route and cluster) or in all pools.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn steps(&self, span_ms: u64, pool: Option<(&str, &str)>) -> Result<Steps, StoreError> {
        self.steps_until(unix_ms(), span_ms, pool).await
    }

    async fn steps_until(
        &self,
        now_ms: u64,
        span_ms: u64,
        pool: Option<(&str, &str)>,
    ) -> Result<Steps, StoreError> {
        let fine = span_ms <= Resolution::Fine.span_max_ms();
        let resolution = if fine { Resolution::Fine } else { Resolution::Coarse };
        let step_ms = resolution.step_ms();
        let last = now_ms / step_ms;
        let count = span_ms.clamp(step_ms, resolution.span_max_ms()).div_ceil(step_ms);
        let first = (last + 1).saturating_sub(count);
        let (from_ms, page_ms) = (first * step_ms, resolution.page_ms());
        let starts = (from_ms / page_ms..=now_ms / page_ms).map(|page| page * page_ms);
        let mut pages =
            futures::stream::iter(starts)
                .map(|start| async move {
                    Ok::<_, StoreError>((start, self.page(resolution, start, now_ms).await?))
                })
                .buffered(CONCURRENCY);
        let mut counts = vec![[0; ADMIT_RESULTS]; (last + 1 - first) as usize];
        while let Some((start, page)) = pages.try_next().await? {
            for ((route, cluster), steps) in page.iter() {
                if pool.is_some_and(|pool| pool != (route, cluster)) {
                    continue;
                }
                for (step, more) in steps.iter().enumerate() {
                    let at = (start / step_ms + step as u64).checked_sub(first);
                    if let Some(sum) = at.and_then(|at| counts.get_mut(at as usize)) {
                        add(sum, more);
                    }
                }
            }
        }
        Ok(Steps { step_ms, from_ms, counts })
    }

    async fn page(&self, resolution: Resolution, start: u64, now_ms: u64) -> Result<Arc<Page>, StoreError> {
        // Sidecars report the last step of a page up to a few seconds late.
        let is_over = start + resolution.page_ms() + Resolution::Fine.page_ms() < now_ms;
        let fresh = if is_over { FRESH_OVER } else { FRESH };
        let page = {
            let mut pages = self.pages.lock();
            if !pages.contains_key(&(resolution, start)) {
                pages.retain(|_, page| !page.is_stale(FRESH_OVER));
            }
            Arc::clone(pages.entry((resolution, start)).or_default())
        };
        let read = async { Ok(sum(self.store.page(resolution, start).await?)) };
        page.get_or_read(fresh, read).await
    }

    /// Returns the keys of limits, fullest first.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn fullest_keys(&self) -> Result<Arc<Vec<FullestKey>>, StoreError> {
        let read = async {
            let now = unix_ms();
            // If several sidecars report a key, the newest state is used.
            let mut keys: BTreeMap<(String, String), FullestKey> = BTreeMap::new();
            for seen in self.store.fullest_keys().await?.into_iter().flatten() {
                let key = (seen.limit.clone(), seen.key());
                let known = keys.get(&key).is_some_and(|known| known.seen_at_ms >= seen.seen_at_ms);
                if is_current(seen.reset_at_ms, seen.seen_at_ms, now) && !known {
                    keys.insert(key, seen);
                }
            }
            let mut all: Vec<FullestKey> = keys.into_values().collect();
            all.sort_by(|a, b| b.share().total_cmp(&a.share()));
            Ok(all)
        };
        self.fullest_keys.get_or_read(FRESH, read).await
    }

    /// Returns the burn rates of quotas used within the last hour. The quotas that run out soonest come first.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn burn_rates(&self) -> Result<Arc<Vec<BurnRate>>, StoreError> {
        let read = async { Ok(burn_rate::join(self.store.quota_charges().await?, unix_ms())) };
        self.burn_rates.get_or_read(FRESH, read).await
    }

    /// Returns the last recorded refusals, newest first.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn refusals(&self) -> Result<Arc<Vec<Refused>>, StoreError> {
        let read =
            async { Ok(newest_first(self.store.refusals().await?, |refused| (refused.at_ms, refused.id))) };
        self.refusals.get_or_read(FRESH, read).await
    }

    /// Returns the refusal with this request id.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn refusal(&self, request_id: &str) -> Result<Option<Refused>, StoreError> {
        self.store.refusal(request_id).await
    }

    /// Returns the last repairs of tables, newest first.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn repairs(&self) -> Result<Arc<Vec<Repair>>, StoreError> {
        let read =
            async { Ok(newest_first(self.store.repairs().await?, |repair| (repair.at_ms, repair.id))) };
        self.repairs.get_or_read(FRESH, read).await
    }
}

/// Sorts a list and removes duplicates. A sidecar repeats a call whose reply was lost, which adds entries twice.
fn newest_first<T>(mut list: Vec<T>, key: impl Fn(&T) -> (u64, u64)) -> Vec<T> {
    list.sort_by_key(|entry| std::cmp::Reverse(key(entry)));
    list.dedup_by_key(|entry| key(entry));
    list
}

fn sum(reported: Vec<Vec<PoolSteps>>) -> Page {
    let mut page = Page::new();
    for PoolSteps { route, cluster, steps } in reported.into_iter().flatten() {
        let sums = page.entry((route, cluster)).or_default();
        for (step, more) in &steps {
            if let Some(sum) = sums.get_mut(*step) {
                add(sum, more);
            }
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use evenkeel_domain::activity::RepairKind;
    use evenkeel_store::memory::MemoryActivity;

    use super::*;

    fn steps(n: u64) -> Vec<PoolSteps> {
        vec![PoolSteps {
            route: String::new(),
            cluster: "c".into(),
            steps: vec![(0, [n; ADMIT_RESULTS]), (99, [n; ADMIT_RESULTS])],
        }]
    }

    #[tokio::test(start_paused = true)]
    async fn the_page_cache_stays_small_if_it_is_queried_for_a_day() {
        let store = Arc::new(MemoryActivity::default());
        let history = History::new(Arc::clone(&store) as Arc<dyn ActivityStore>);
        for minute in 0..1440_u64 {
            store.put_page("a", Resolution::Fine, minute / 2 * 120_000, &steps(1)).await.unwrap();
            store.put_page("b", Resolution::Fine, minute / 2 * 120_000, &steps(2)).await.unwrap();
            let steps = history.steps_until(minute * 60_000, 60_000, Some(("", "c"))).await.unwrap();
            assert_eq!(
                steps.counts.iter().map(|counts| counts[0]).max(),
                Some(if minute % 2 == 0 { 3 } else { 0 })
            );
            assert!(history.pages.lock().len() <= 3, "{}", history.pages.lock().len());
            tokio::time::advance(Duration::from_secs(60)).await;
        }
    }

    #[test]
    fn a_duplicate_is_returned_once() {
        let repair = |id, at_ms| Repair {
            id,
            at_ms,
            kind: RepairKind::Moved,
            route: String::new(),
            cluster: "c".into(),
            holder: String::new(),
            count: 1,
            sidecar: String::new(),
        };
        let list = vec![repair(1, 5), repair(2, 5), repair(1, 5), repair(2, 5), repair(3, 6)];
        let repairs = newest_first(list, |repair| (repair.at_ms, repair.id));
        assert_eq!(repairs.iter().map(|repair| repair.id).collect::<Vec<_>>(), [3, 2, 1]);
    }
}
