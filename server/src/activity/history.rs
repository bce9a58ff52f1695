//! What all sidecars told, joined.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    forecast::{self, QuotaBurn},
    nearest::is_current,
};
use crate::{
    clock::unix_ms,
    domain::activity::{Counts, FATES, Nearest, PoolSteps, Refused, Repair, Resolution, SidecarStatus, add},
    store::{
        StoreError,
        activity::{ActivityStore, REPORT_KEPT_MS},
    },
};

/// Readings younger than this serve the next who asks, however many ask.
const FRESH: Duration = Duration::from_secs(1);
/// The same for pages that are over: a sidecar may have been cut off and write late.
const FRESH_OVER: Duration = Duration::from_secs(30);
/// Pages read at once.
const CONCURRENCY: usize = 4;
/// Pages remembered.
const PAGES_MAX: usize = 256;
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

type Page = Arc<Vec<PoolSteps>>;

/// What all sidecars told.
pub struct History {
    store: Arc<dyn ActivityStore>,
    pages: Mutex<HashMap<(Resolution, u64), (Instant, Page)>>,
    statuses: Remembered<Vec<SidecarStatus>>,
    nearest: Remembered<Vec<Nearest>>,
    burns: Remembered<Vec<QuotaBurn>>,
}

/// The last reading of something; who comes while it is read waits for it.
struct Remembered<T>(tokio::sync::Mutex<Option<(Instant, Arc<T>)>>);

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Self(tokio::sync::Mutex::new(None))
    }
}

impl<T> Remembered<T> {
    async fn or_read(&self, read: impl Future<Output = Result<T, StoreError>>) -> Result<Arc<T>, StoreError> {
        let mut known = self.0.lock().await;
        if let Some((at, value)) = &*known
            && at.elapsed() < FRESH
        {
            return Ok(Arc::clone(value));
        }
        let value = Arc::new(read.await?);
        *known = Some((Instant::now(), Arc::clone(&value)));
        Ok(value)
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
        }
    }

    /// Sidecars by name, and whether each is alive; those that ended within ten minutes included.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn sidecars(&self) -> Result<Vec<(SidecarStatus, bool)>, StoreError> {
        let statuses = self.statuses.or_read(self.store.statuses()).await?;
        // By the store's clock: what was told last is no older than an interval, as the one who asks tells too.
        let now = statuses.iter().map(|status| status.seen_at_ms).max().unwrap_or(0);
        let long_gone: Vec<String> = (statuses.iter())
            .filter(|status| status.seen_at_ms + REPORT_KEPT_MS < now)
            .map(|status| status.id.clone())
            .collect();
        if !long_gone.is_empty() {
            self.store.forget(&long_gone).await?;
        }
        let listed = statuses.iter().filter(|status| status.seen_at_ms + LISTED_MS >= now);
        let mut listed: Vec<_> = listed
            .map(|status| {
                let heard_of = status.seen_at_ms + INTERVALS_MISSED_MAX * status.interval_ms >= now;
                (status.clone(), heard_of && !status.draining)
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
        let mut counts = vec![[0; FATES]; (last + 1 - first) as usize];
        while let Some((start, page)) = pages.try_next().await? {
            for of in page.iter() {
                if pool.is_some_and(|(route, cluster)| of.route != route || of.cluster != cluster) {
                    continue;
                }
                for (step, more) in &of.steps {
                    let at = (start / step_ms + *step as u64).checked_sub(first);
                    if let Some(sum) = at.and_then(|at| counts.get_mut(at as usize)) {
                        add(sum, more);
                    }
                }
            }
        }
        Ok(Steps { step_ms, from_ms, counts })
    }

    async fn page(&self, resolution: Resolution, start: u64, now_ms: u64) -> Result<Page, StoreError> {
        // A sidecar tells of the last step up to some seconds late.
        let is_over = start + resolution.page_ms() + Resolution::Fine.page_ms() < now_ms;
        let fresh = if is_over { FRESH_OVER } else { FRESH };
        if let Some((at, page)) = self.pages.lock().get(&(resolution, start))
            && at.elapsed() < fresh
        {
            return Ok(Arc::clone(page));
        }
        let told = self.store.page(resolution, start).await?;
        let page: Page = Arc::new(told.into_iter().flatten().collect());
        let mut pages = self.pages.lock();
        if pages.len() >= PAGES_MAX {
            pages.retain(|_, (at, _)| at.elapsed() < FRESH_OVER);
        }
        if pages.len() >= PAGES_MAX {
            pages.clear();
        }
        pages.insert((resolution, start), (Instant::now(), Arc::clone(&page)));
        Ok(page)
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
                if is_current(nearest.reset_at_ms, now) && !known {
                    keys.insert(key, nearest);
                }
            }
            let mut all: Vec<Nearest> = keys.into_values().collect();
            all.sort_by(|a, b| b.share().total_cmp(&a.share()));
            Ok(all)
        };
        self.nearest.or_read(read).await
    }

    /// Quotas lately used, those that run out soonest first.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn burns(&self) -> Result<Arc<Vec<QuotaBurn>>, StoreError> {
        let read = async { Ok(forecast::join(self.store.burns().await?, unix_ms())) };
        self.burns.or_read(read).await
    }

    /// Refusals lately recorded, newest first; of one consumer, or of all.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn refusals(&self, consumer: &str, most: usize) -> Result<Vec<Refused>, StoreError> {
        let mut refusals = self.store.refusals().await?;
        refusals.retain(|refused| consumer.is_empty() || refused.consumer == consumer);
        refusals.sort_by_key(|refused| std::cmp::Reverse(refused.at_ms));
        // A call whose answer was lost was repeated.
        refusals.dedup();
        refusals.truncate(most);
        Ok(refusals)
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
        let mut repairs = self.store.repairs().await?;
        repairs.sort_by_key(|repair| std::cmp::Reverse(repair.at_ms));
        repairs.dedup();
        repairs.truncate(most);
        Ok(repairs)
    }
}
