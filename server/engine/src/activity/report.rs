//! Reports to the store what this sidecar saw, so that all sidecars can read it.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use evenkeel_domain::{
    PoolId, StoreError,
    activity::{Counts, SidecarStatus, StoreKind},
    clock::unix_ms,
    limit::LimitRules,
};
use evenkeel_store::{
    Store,
    activity::{ActivityStore, REPORT_KEPT_MS, Report},
};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{Recorder, pages::Pages};

/// Time between two reports.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// Every n-th report contains the fullest keys and the charges of quotas.
const LISTS_EVERY: u64 = 2;
/// Every n-th report also deletes the reports of sidecars that stopped long ago.
const FORGET_EVERY: u64 = 600;
/// Time without a report, in ms, after which other sidecars may take this one for stopped.
const BREAK_MS: u64 = 2500;
/// Maximum time for the last report.
const LAST_MAX: Duration = Duration::from_millis(500);

/// The part of a sidecar's status that does not change while it runs.
#[derive(Clone, Debug)]
pub struct About {
    /// Random id of the process.
    pub id: String,
    /// Where the sidecar counts requests.
    pub store: StoreKind,
    /// A holder counts as dead after this time without a KeepAlive.
    pub holder_ttl: Duration,
}

/// Totals of the results of requests, by pool.
pub trait PoolTotals: Send + Sync + 'static {
    /// Returns the totals of every pool since the sidecar started.
    fn totals(&self) -> Vec<(PoolId, Counts)>;
}

/// Writes this sidecar's reports.
pub struct Reporter {
    about: About,
    recorder: Arc<Recorder>,
    pools: Arc<dyn PoolTotals>,
    tables: Arc<dyn Store>,
    store: Arc<dyn ActivityStore>,
    rules: Arc<ArcSwap<LimitRules>>,
    started_at_ms: u64,
    pages: Pages,
    /// The rules that were last reported, and their fingerprint.
    revision: Option<(Arc<LimitRules>, String)>,
    reports: u64,
    /// How often the store had been lost by the time of the last report.
    losses: u64,
    /// Time of the last report, and since when there has been no break.
    reported_ms: u64,
    reporting_since_ms: u64,
}

impl Reporter {
    #[must_use]
    pub fn new(
        about: About,
        recorder: Arc<Recorder>,
        pools: Arc<dyn PoolTotals>,
        tables: Arc<dyn Store>,
        store: Arc<dyn ActivityStore>,
        rules: Arc<ArcSwap<LimitRules>>,
    ) -> Self {
        Self {
            about,
            recorder,
            pools,
            tables,
            store,
            rules,
            started_at_ms: unix_ms(),
            pages: Pages::default(),
            revision: None,
            reports: 0,
            losses: 0,
            reported_ms: 0,
            reporting_since_ms: 0,
        }
    }

    /// Returns when this sidecar started, in ms since the Unix epoch.
    #[must_use]
    pub fn started_at_ms(&self) -> u64 {
        self.started_at_ms
    }

    /// Reports periodically until `shutdown`, then reports once more.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = shutdown.cancelled() => break,
            }
            if let Err(error) = self.report(false).await {
                debug!(%error, "the report was not written and waits");
            }
        }
        if tokio::time::timeout(LAST_MAX, self.report(true)).await.is_err() {
            debug!("the last report timed out");
        }
    }

    /// Writes changes to the store. If that fails, the next report includes them.
    async fn report(&mut self, ending: bool) -> Result<(), StoreError> {
        let now_ms = unix_ms();
        let totals = self.pools.totals();
        self.pages.read(totals.iter().map(|(pool, counts)| (pool, *counts)), now_ms);
        self.pages.forget_old(now_ms);
        if !self.tables.is_up() {
            return Ok(());
        }
        self.recorder.set_sidecars(self.tables.instances());
        let losses = self.tables.losses();
        if losses != self.losses {
            // The store may have restarted empty.
            self.losses = losses;
            self.pages.mark_dirty();
            self.recorder.mark_changed();
        }
        let turn = self.reports;
        self.reports += 1;
        let lists = ending || turn.is_multiple_of(LISTS_EVERY);
        let report = Report {
            status: Some(self.status(ending)),
            fullest_keys: lists.then(|| self.recorder.take_fullest_keys(now_ms)).flatten(),
            charges: lists.then(|| self.recorder.take_charges(now_ms)).flatten(),
        };
        self.store.report(&self.about.id, &report).await.inspect_err(|_| self.recorder.mark_changed())?;
        self.note_reported(now_ms);
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

    fn note_reported(&mut self, now_ms: u64) {
        if now_ms > self.reported_ms + BREAK_MS {
            self.reporting_since_ms = now_ms;
        }
        self.reported_ms = now_ms;
        self.recorder.set_reporting_since(self.reporting_since_ms);
    }

    /// Deletes the reports of sidecars that stopped long ago.
    async fn forget_long_gone(&self) -> Result<(), StoreError> {
        let statuses = self.store.statuses().await?;
        let now = statuses.iter().map(|status| status.seen_at_ms).max().unwrap_or(0);
        let long_gone = statuses.iter().filter(|status| status.seen_at_ms + REPORT_KEPT_MS < now);
        let long_gone: Vec<String> = long_gone.map(|status| status.id.clone()).collect();
        if long_gone.is_empty() { Ok(()) } else { self.store.forget(&long_gone).await }
    }

    fn status(&mut self, ended: bool) -> SidecarStatus {
        let (admitted, refused) = self.recorder.totals();
        let (gateways, gateways_unlisted) = self.recorder.gateways.statuses();
        SidecarStatus {
            id: self.about.id.clone(),
            name: self.recorder.name().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at_ms: self.started_at_ms,
            seen_at_ms: 0,
            interval_ms: INTERVAL.as_millis() as u64,
            shutting_down: self.recorder.is_stopping(),
            ended,
            store: self.about.store,
            store_losses: self.tables.losses(),
            holders: self.recorder.holders(self.about.holder_ttl),
            admitted,
            refused,
            limits_revision: self.revision(),
            gateways,
            gateways_unlisted,
            certificate_expires_at_ms: self.recorder.certificate_expiry(),
        }
    }

    /// Returns the fingerprint of the active limits.
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
