//! What all sidecars told, joined.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use evenkeel_domain::{
    StoreError,
    activity::{
        ADMIT_RESULTS, Counts, Nearest, PoolSteps, Refused, Repair, Resolution, STEPS, SidecarStatus, add,
    },
    clock::unix_ms,
};
use evenkeel_store::activity::ActivityStore;
use futures::{StreamExt as _, TryStreamExt as _};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    forecast::{self, QuotaBurn},
    nearest::is_current,
};

/// Readings younger than this serve the next who asks, however many ask.
const FRESH: Duration = Duration::from_secs(1);
/// The same for pages that are over: a sidecar may have been cut off and write late.
const FRESH_OVER: Duration = Duration::from_secs(30);
/// Pages read at once.
const CONCURRENCY: usize = 4;
/// A sidecar that ended is listed for this long, in ms.
const LISTED_MS: u64 = 600_000;
/// A sidecar not heard of for so many of its intervals counts as ended.
const INTERVALS_MISSED_MAX: u64 = 5;

/// What became of requests, step by step.
#[derive(Clone, Debug, PartialEq)]
pub struct Steps {
    /// Length of a step in ms.
    pub step_ms: u64,
    /// Start of the first one, ms of the Unix epoch.
    pub from_ms: u64,
    /// Oldest first; the last one is still going on.
    pub counts: Vec<Counts>,
}

/// What became of requests in the steps of one page, by route and cluster: of all sidecars together.
type Page = HashMap<(String, String), [Counts; STEPS as usize]>;

type Pages = HashMap<(Resolution, u64), Arc<Remembered<Page>>>;

/// What all sidecars told.
pub struct History {
    store: Arc<dyn ActivityStore>,
    pages: Mutex<Pages>,
    statuses: Remembered<Vec<SidecarStatus>>,
    nearest: Remembered<Vec<Nearest>>,
    burns: Remembered<Vec<QuotaBurn>>,
    refusals: Remembered<Vec<Refused>>,
    repairs: Remembered<Vec<Repair>>,
}

/// The last reading of something, a failure too; who comes while it is read waits for it.
struct Remembered<T>(tokio::sync::Mutex<Option<Reading<T>>>);

struct Reading<T> {
    at: Instant,
    value: Result<Arc<T>, StoreError>,
}

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Self(tokio::sync::Mutex::new(None))
    }
}

impl<T> Remembered<T> {
    async fn or_read(
        &self,
        fresh: Duration,
        read: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<Arc<T>, StoreError> {
        let mut known = self.0.lock().await;
        if let Some(Reading { at, value }) = &*known
            && at.elapsed() < if value.is_ok() { fresh } else { FRESH }
        {
            return value.clone();
        }
        let value = read.await.map(Arc::new);
        *known = Some(Reading { at: Instant::now(), value: value.clone() });
        value
    }

    /// Whether it serves nobody any more; not where it is being read.
    fn is_stale(&self) -> bool {
        let known = self.0.try_lock();
        known.is_ok_and(|known| known.as_ref().is_none_or(|reading| reading.at.elapsed() >= FRESH_OVER))
    }
}

impl History {
    /// Over this store.
    #[must_use]
    pub fn new(store: Arc<dyn ActivityStore>) -> Self {
        Self {
            store,
            pages: Mutex::default(),
            statuses: Remembered::default(),
            nearest: Remembered::default(),
            burns: Remembered::default(),
            refusals: Remembered::default(),
            repairs: Remembered::default(),
        }
    }

    /// Sidecars by name, and whether each is alive; those that ended within ten minutes included.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn sidecars(&self) -> Result<Vec<(SidecarStatus, bool)>, StoreError> {
        let statuses = self.statuses.or_read(FRESH, self.store.statuses()).await?;
        // By the store's clock: what was told last is no older than an interval, as the one who asks tells too.
        let now = statuses.iter().map(|status| status.seen_at_ms).max().unwrap_or(0);
        let listed = statuses.iter().filter(|status| status.seen_at_ms + LISTED_MS >= now);
        let mut listed: Vec<_> = listed
            .map(|status| {
                let heard_of = status.seen_at_ms + INTERVALS_MISSED_MAX * status.interval_ms >= now;
                (status.clone(), heard_of && !status.ended)
            })
            .collect();
        listed.sort_by(|(a, _), (b, _)| (&a.name, a.started_at_ms).cmp(&(&b.name, b.started_at_ms)));
        Ok(listed)
    }

    /// What became of requests over the last `span_ms`: of all, or in one pool (route and cluster).
    ///
    /// # Errors
    /// Where the store fails.
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
        // A sidecar tells of the last step up to some seconds late.
        let is_over = start + resolution.page_ms() + Resolution::Fine.page_ms() < now_ms;
        let fresh = if is_over { FRESH_OVER } else { FRESH };
        let page = {
            let mut pages = self.pages.lock();
            if !pages.contains_key(&(resolution, start)) {
                pages.retain(|_, page| !page.is_stale());
            }
            Arc::clone(pages.entry((resolution, start)).or_default())
        };
        let read = async { Ok(sum(self.store.page(resolution, start).await?)) };
        page.or_read(fresh, read).await
    }

    /// Keys of limits, fullest first.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn nearest(&self) -> Result<Arc<Vec<Nearest>>, StoreError> {
        let read = async {
            let now = unix_ms();
            // Of what several sidecars saw, what was seen last.
            let mut keys: BTreeMap<(String, String), Nearest> = BTreeMap::new();
            for nearest in self.store.nearest().await?.into_iter().flatten() {
                let key = (nearest.limit.clone(), nearest.key());
                let known = keys.get(&key).is_some_and(|known| known.seen_at_ms >= nearest.seen_at_ms);
                if is_current(nearest.reset_at_ms, nearest.seen_at_ms, now) && !known {
                    keys.insert(key, nearest);
                }
            }
            let mut all: Vec<Nearest> = keys.into_values().collect();
            all.sort_by(|a, b| b.share().total_cmp(&a.share()));
            Ok(all)
        };
        self.nearest.or_read(FRESH, read).await
    }

    /// Quotas lately used, those that run out soonest first.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn burns(&self) -> Result<Arc<Vec<QuotaBurn>>, StoreError> {
        let read = async { Ok(forecast::join(self.store.burns().await?, unix_ms())) };
        self.burns.or_read(FRESH, read).await
    }

    /// Refusals lately recorded, newest first; of one consumer, or of all.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn refusals(&self, consumer: &str, most: usize) -> Result<Vec<Refused>, StoreError> {
        let read =
            async { Ok(newest_first(self.store.refusals().await?, |refused| (refused.at_ms, refused.id))) };
        let refusals = self.refusals.or_read(FRESH, read).await?;
        let wanted = refusals.iter().filter(|refused| consumer.is_empty() || refused.consumer == consumer);
        Ok(wanted.take(most).cloned().collect())
    }

    /// A refusal by its request's id.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn refusal(&self, request_id: &str) -> Result<Option<Refused>, StoreError> {
        self.store.refusal(request_id).await
    }

    /// Repairs of tables, newest first.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn repairs(&self, most: usize) -> Result<Vec<Repair>, StoreError> {
        let read =
            async { Ok(newest_first(self.store.repairs().await?, |repair| (repair.at_ms, repair.id))) };
        let repairs = self.repairs.or_read(FRESH, read).await?;
        Ok(repairs.iter().take(most).cloned().collect())
    }
}

/// Each once: a call whose answer was lost was repeated.
fn newest_first<T>(mut list: Vec<T>, key: impl Fn(&T) -> (u64, u64)) -> Vec<T> {
    list.sort_by_key(|entry| std::cmp::Reverse(key(entry)));
    list.dedup_by_key(|entry| key(entry));
    list
}

fn sum(told: Vec<Vec<PoolSteps>>) -> Page {
    let mut page = Page::new();
    for PoolSteps { route, cluster, steps } in told.into_iter().flatten() {
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
    use evenkeel_store::memory_activity::MemoryActivity;

    use super::*;

    fn steps(n: u64) -> Vec<PoolSteps> {
        vec![PoolSteps {
            route: String::new(),
            cluster: "c".into(),
            steps: vec![(0, [n; ADMIT_RESULTS]), (99, [n; ADMIT_RESULTS])],
        }]
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_that_is_watched_for_a_day_takes_no_more_memory() {
        let store = Arc::new(MemoryActivity::default());
        let history = History::new(Arc::clone(&store) as Arc<dyn ActivityStore>);
        for minute in 0..1440_u64 {
            store.put_page("a", Resolution::Fine, minute / 2 * 120_000, &steps(1)).await.unwrap();
            store.put_page("b", Resolution::Fine, minute / 2 * 120_000, &steps(2)).await.unwrap();
            let told = history.steps_until(minute * 60_000, 60_000, Some(("", "c"))).await.unwrap();
            assert_eq!(
                told.counts.iter().map(|counts| counts[0]).max(),
                Some(if minute % 2 == 0 { 3 } else { 0 })
            );
            assert!(history.pages.lock().len() <= 3, "{}", history.pages.lock().len());
            tokio::time::advance(Duration::from_secs(60)).await;
        }
    }

    #[tokio::test]
    async fn who_asks_at_the_same_time_shares_one_reading() {
        let (known, reads) = (Remembered::default(), std::sync::atomic::AtomicU64::new(0));
        let read = || async {
            tokio::task::yield_now().await;
            Ok(reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
        };
        let all = futures::future::join_all((0..50).map(|_| known.or_read(FRESH, read()))).await;
        assert!(all.into_iter().all(|value| *value.unwrap() == 0));
        let failing: Remembered<()> = Remembered::default();
        let fail = || async {
            reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Err(StoreError::Timeout(1))
        };
        let all = futures::future::join_all((0..50).map(|_| failing.or_read(FRESH_OVER, fail()))).await;
        assert!(all.iter().all(Result::is_err));
        assert_eq!(reads.load(std::sync::atomic::Ordering::Relaxed), 2, "a failure is shared too");
    }

    #[test]
    fn what_was_written_twice_is_told_once() {
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
        let told = newest_first(list, |repair| (repair.at_ms, repair.id));
        assert_eq!(told.iter().map(|repair| repair.id).collect::<Vec<_>>(), [3, 2, 1]);
    }
}
