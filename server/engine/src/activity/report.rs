//! Telling the other sidecars what this one saw.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use evenkeel_domain::{
    StoreError,
    activity::{SidecarStatus, StoreKind},
    clock::unix_ms,
    limit::LimitRules,
};
use evenkeel_store::activity::{ActivityStore, REPORT_KEPT_MS, Report};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{Recorder, pages::Pages};
use crate::balancer::Balancer;

/// Time between two reports.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// Reports between two lists of limits, and of quotas.
const LISTS_EVERY: u64 = 2;
/// Reports between two looks for what sidecars told that ended long ago.
const FORGET_EVERY: u64 = 600;
/// Longest wait for the last report.
const LAST_MAX: Duration = Duration::from_millis(500);

/// What stays the same while a sidecar runs.
#[derive(Clone, Debug)]
pub struct About {
    /// Random id of the process.
    pub id: String,
    /// What it counts in.
    pub store: StoreKind,
    /// A holder not heard of for this long counts as dead.
    pub holder_ttl: Duration,
}

/// Tells the others.
pub struct Reporter {
    about: About,
    recorder: Arc<Recorder>,
    balancer: Arc<Balancer>,
    store: Arc<dyn ActivityStore>,
    rules: Arc<ArcSwap<LimitRules>>,
    started_at_ms: u64,
    pages: Pages,
    /// The rules last told of, and their fingerprint.
    revision: Option<(Arc<LimitRules>, String)>,
    told: u64,
    /// Times the store had been lost when something was last told.
    losses: u64,
}

impl Reporter {
    /// With nothing told yet.
    #[must_use]
    pub fn new(
        about: About,
        recorder: Arc<Recorder>,
        balancer: Arc<Balancer>,
        store: Arc<dyn ActivityStore>,
        rules: Arc<ArcSwap<LimitRules>>,
    ) -> Self {
        Self {
            about,
            recorder,
            balancer,
            store,
            rules,
            started_at_ms: unix_ms(),
            pages: Pages::default(),
            revision: None,
            told: 0,
            losses: 0,
        }
    }

    /// When this sidecar was started, ms of the Unix epoch.
    #[must_use]
    pub fn started_at_ms(&self) -> u64 {
        self.started_at_ms
    }

    /// Tells until `shutdown`, and then once more.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = shutdown.cancelled() => break,
            }
            if let Err(error) = self.tell(false).await {
                debug!(%error, "not told what happened: it waits");
            }
        }
        if tokio::time::timeout(LAST_MAX, self.tell(true)).await.is_err() {
            debug!("the last report took too long");
        }
    }

    /// Puts what is new into the store; what does not reach it waits.
    async fn tell(&mut self, ending: bool) -> Result<(), StoreError> {
        let now_ms = unix_ms();
        let pools = self.balancer.directory.all();
        self.pages.read(pools.iter().map(|entry| (&entry.pool.id, entry.counts.read())), now_ms);
        self.pages.forget_old(now_ms);
        if !self.balancer.store.is_up() {
            return Ok(());
        }
        self.recorder.set_sidecars(self.balancer.store.instances());
        let losses = self.balancer.store.losses();
        if losses != self.losses {
            // It may have come back empty.
            self.losses = losses;
            self.pages.mark_dirty();
            self.recorder.mark_changed();
        }
        let turn = self.told;
        self.told += 1;
        let lists = ending || turn.is_multiple_of(LISTS_EVERY);
        let report = Report {
            status: Some(self.status(ending)),
            nearest: lists.then(|| self.recorder.take_nearest(now_ms)).flatten(),
            burns: lists.then(|| self.recorder.take_burns(now_ms)).flatten(),
        };
        self.store.report(&self.about.id, &report).await.inspect_err(|_| self.recorder.mark_changed())?;
        for (resolution, start, counts) in self.pages.dirty() {
            self.store.put_page(&self.about.id, resolution, start, &counts).await?;
            self.pages.written(resolution, start);
        }
        let (refusals, repairs) = (self.recorder.take_refusals(), self.recorder.take_repairs());
        let kept = async {
            if !refusals.is_empty() {
                self.store.add_refusals(&refusals).await?;
            }
            if !repairs.is_empty() {
                self.store.add_repairs(&repairs).await?;
            }
            Ok(())
        };
        let kept = kept.await;
        if kept.is_err() {
            self.recorder.put_back(refusals, repairs);
        }
        if turn % FORGET_EVERY == 1 {
            self.forget_long_gone().await?;
        }
        kept
    }

    /// Whoever ended long ago has nothing to tell any more.
    async fn forget_long_gone(&self) -> Result<(), StoreError> {
        let statuses = self.store.statuses().await?;
        let now = statuses.iter().map(|status| status.seen_at_ms).max().unwrap_or(0);
        let long_gone = statuses.iter().filter(|status| status.seen_at_ms + REPORT_KEPT_MS < now);
        let long_gone: Vec<String> = long_gone.map(|status| status.id.clone()).collect();
        if long_gone.is_empty() { Ok(()) } else { self.store.forget(&long_gone).await }
    }

    fn status(&mut self, ended: bool) -> SidecarStatus {
        let (admitted, refused) = self.recorder.totals();
        SidecarStatus {
            id: self.about.id.clone(),
            name: self.recorder.name().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at_ms: self.started_at_ms,
            seen_at_ms: 0,
            interval_ms: INTERVAL.as_millis() as u64,
            draining: self.recorder.is_draining(),
            ended,
            store: self.about.store,
            store_losses: self.balancer.store.losses(),
            holders: self.recorder.holders(self.about.holder_ttl),
            admitted,
            refused,
            limits_revision: self.revision(),
        }
    }

    /// The fingerprint of the limits in force.
    fn revision(&mut self) -> String {
        let rules = self.rules.load_full();
        if let Some((known, revision)) = &self.revision
            && Arc::ptr_eq(known, &rules)
        {
            return revision.clone();
        }
        let revision = format!("{:016x}", rules.fingerprint());
        self.revision = Some((rules, revision.clone()));
        revision
    }
}
