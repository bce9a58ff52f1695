//! Who may act in the name of a holder, and which stream of a holder is the current one. A holder is one gateway worker.
//!
//! The store keeps a secret and an epoch for each holder. While the store is unavailable, this sidecar verifies callers
//! against the secrets that it remembers, and accepts holders that it does not know. It writes their records when the
//! store is available again.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use evenkeel_domain::{HolderId, clock::unix_ms};
use evenkeel_store::holders::{Epoch, HolderRecord, HolderStore, Secret};
use evenkeel_telemetry::Metrics;
use parking_lot::Mutex;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How long a secret that the store has confirmed is verified without the store. The record expires an hour after its
/// last confirmation.
const CONFIRMED_FOR: Duration = Duration::from_secs(600);
/// How long a secret that nobody uses is remembered.
const KEPT: Duration = Duration::from_secs(3600);
/// Maximum number of remembered secrets. The store verifies the callers of further holders at each call.
const KNOWN_MAX: usize = 65_536;
/// Maximum time that a new stream waits for the operations of the holder's previous stream. A call to the store takes
/// less.
const PREVIOUS_MAX: Duration = Duration::from_secs(5);

/// Why a caller may not act in the name of a holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error("the holder exists, and the caller did not send its secret")]
    WrongSecret,
    #[error("the holder has connected on another stream")]
    Replaced,
}

/// Verifies the callers of holders, and registers their streams.
pub struct Holders {
    store: Arc<dyn HolderStore>,
    known: Mutex<HashMap<HolderId, Known>>,
    streams: Mutex<HashMap<HolderId, Stream>>,
    metrics: Arc<Metrics>,
}

/// A secret that this sidecar remembers.
struct Known {
    record: HolderRecord,
    /// When the store last confirmed the record. `None`: the store does not have it yet.
    confirmed: Option<Instant>,
    used: Instant,
}

/// The current stream of a holder at this sidecar.
struct Stream {
    epoch: u64,
    ended: CancellationToken,
    finished: CancellationToken,
}

impl Holders {
    #[must_use]
    pub fn new(store: Arc<dyn HolderStore>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { store, known: Mutex::default(), streams: Mutex::default(), metrics })
    }

    /// Verifies the caller of a unary call. Returns the new secret if the call is the first of its holder and has no
    /// secret.
    ///
    /// # Errors
    /// If the holder exists and has another secret.
    pub async fn verify(&self, holder: &HolderId, given: Option<Secret>) -> Result<Option<Secret>, Rejected> {
        if let Some(secret) = self.confirmed(holder) {
            return self.check(secret, given.as_ref()).map(|()| None);
        }
        let secret = given.unwrap_or_else(random_secret);
        self.claim(holder, &secret, Epoch::AtLeast(0), given.is_some()).await?;
        Ok(if given.is_none() { Some(secret) } else { None })
    }

    /// Registers a new stream of a holder, and ends the holder's previous stream at this sidecar. Waits until the
    /// operations of the previous stream have ended, so that none of them follows an operation of the new stream.
    ///
    /// # Errors
    /// If the holder exists and has another secret, or if it has connected again in the meantime.
    pub async fn connect(
        self: &Arc<Self>,
        holder: HolderId,
        given: Option<Secret>,
    ) -> Result<Registration, Rejected> {
        let secret = given.unwrap_or_else(random_secret);
        let record = self.claim(&holder, &secret, Epoch::Next, given.is_some()).await?;
        let stream = Stream { epoch: record.epoch, ended: Default::default(), finished: Default::default() };
        let registration = Registration {
            holders: Arc::clone(self),
            holder: holder.clone(),
            secret,
            epoch: stream.epoch,
            ended: stream.ended.clone(),
            finished: stream.finished.clone(),
        };
        let previous = {
            let mut streams = self.streams.lock();
            if streams.get(&holder).is_some_and(|other| other.epoch > stream.epoch) {
                return Err(Rejected::Replaced);
            }
            streams.insert(holder, stream)
        };
        if let Some(previous) = previous {
            previous.ended.cancel();
            if tokio::time::timeout(PREVIOUS_MAX, previous.finished.cancelled()).await.is_err() {
                warn!(holder = %registration.holder, "operations of the holder's previous stream are still in progress");
            }
        }
        Ok(registration)
    }

    /// Once per interval until `shutdown`: writes the records that the store does not have yet, and forgets secrets that
    /// nobody uses.
    pub async fn housekeeping(self: Arc<Self>, interval: Duration, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.write_waiting().await,
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn write_waiting(&self) {
        let waiting: Vec<(HolderId, HolderRecord)> = {
            let mut known = self.known.lock();
            known.retain(|_, known| known.used.elapsed() < KEPT);
            let unconfirmed = known.iter().filter(|(_, known)| known.confirmed.is_none());
            unconfirmed.map(|(holder, known)| (holder.clone(), known.record)).collect()
        };
        for (holder, record) in waiting {
            match self.store.claim(&holder, &record.secret, Epoch::AtLeast(record.epoch)).await {
                Ok(stored) => self.remember(&holder, stored, true),
                Err(_) => return,
            }
        }
    }

    /// Returns the secret that the store has confirmed recently.
    fn confirmed(&self, holder: &HolderId) -> Option<Secret> {
        let mut known = self.known.lock();
        let known = known.get_mut(holder)?;
        known.confirmed.filter(|confirmed| confirmed.elapsed() < CONFIRMED_FOR)?;
        known.used = Instant::now();
        Some(known.record.secret)
    }

    fn check(&self, secret: Secret, given: Option<&Secret>) -> Result<(), Rejected> {
        if given == Some(&secret) {
            return Ok(());
        }
        self.metrics.streams.holders_refused.inc();
        Err(Rejected::WrongSecret)
    }

    /// Claims a holder in the store, or in this sidecar while the store is unavailable. `was_given` is false if the
    /// secret is new.
    async fn claim(
        &self,
        holder: &HolderId,
        secret: &Secret,
        epoch: Epoch,
        was_given: bool,
    ) -> Result<HolderRecord, Rejected> {
        let (record, is_stored) = match self.store.claim(holder, secret, epoch).await {
            Ok(record) => (record, true),
            Err(_) => (self.claim_here(holder, secret, epoch), false),
        };
        // What the store has confirmed is remembered even if the caller is wrong, so that a wrong caller that repeats its
        // calls costs no further calls to the store.
        if is_stored || record.secret == *secret {
            self.remember(holder, record, is_stored);
        }
        self.check(record.secret, Some(secret))?;
        if !is_stored && !was_given {
            info!(%holder, "new holder while the store is unavailable");
        }
        Ok(record)
    }

    fn claim_here(&self, holder: &HolderId, secret: &Secret, epoch: Epoch) -> HolderRecord {
        let known = self.known.lock().get(holder).map(|known| known.record);
        let record = known.unwrap_or(HolderRecord { secret: *secret, epoch: 0 });
        let least = match epoch {
            Epoch::Next => (record.epoch + 1).max(unix_ms() * 1000),
            Epoch::AtLeast(epoch) => epoch,
        };
        HolderRecord { epoch: record.epoch.max(least), ..record }
    }

    fn remember(&self, holder: &HolderId, record: HolderRecord, is_stored: bool) {
        let used = Instant::now();
        let mut known = self.known.lock();
        if known.len() >= KNOWN_MAX && !known.contains_key(holder) {
            known.retain(|_, known| known.used.elapsed() < CONFIRMED_FOR);
            if known.len() >= KNOWN_MAX {
                return;
            }
        }
        known.insert(holder.clone(), Known { record, confirmed: is_stored.then_some(used), used });
    }
}

fn random_secret() -> Secret {
    Secret::new(rand::random())
}

/// A registered stream. Dropping it states that all operations of the stream have ended.
pub struct Registration {
    holders: Arc<Holders>,
    holder: HolderId,
    secret: Secret,
    epoch: u64,
    ended: CancellationToken,
    finished: CancellationToken,
}

impl Registration {
    #[must_use]
    pub fn holder(&self) -> &HolderId {
        &self.holder
    }

    #[must_use]
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Waits until another stream of the holder ends this one.
    pub async fn replaced(&self) {
        self.ended.cancelled().await;
    }

    /// Renews the holder's record.
    ///
    /// # Errors
    /// If the holder has a newer stream at another sidecar, or if the store has another secret. The stream must then end
    /// without changing anything. While the store is unavailable, this sidecar does not notice.
    pub async fn renew(&self) -> Result<(), Rejected> {
        let claim = Epoch::AtLeast(self.epoch);
        let record = self.holders.claim(&self.holder, &self.secret, claim, true).await?;
        if record.epoch > self.epoch { Err(Rejected::Replaced) } else { Ok(()) }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut streams = self.holders.streams.lock();
        if streams.get(&self.holder).is_some_and(|stream| stream.epoch == self.epoch) {
            streams.remove(&self.holder);
        }
        self.finished.cancel();
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_domain::StoreError;
    use evenkeel_store::memory::MemoryHolders;

    use super::*;

    const ONE: Option<Secret> = Some(Secret::new([1; 16]));
    const OTHER: Option<Secret> = Some(Secret::new([2; 16]));

    fn holder(id: &str) -> HolderId {
        HolderId::new(id).unwrap()
    }

    fn holders() -> Arc<Holders> {
        Holders::new(Arc::<MemoryHolders>::default(), Metrics::new().unwrap())
    }

    /// A store that is never available.
    struct Unavailable;

    #[async_trait::async_trait]
    impl HolderStore for Unavailable {
        async fn claim(&self, _: &HolderId, _: &Secret, _: Epoch) -> Result<HolderRecord, StoreError> {
            Err(StoreError::Unavailable("test".to_owned()))
        }
    }

    fn without_store() -> Arc<Holders> {
        Holders::new(Arc::new(Unavailable), Metrics::new().unwrap())
    }

    async fn only_the_first_caller_may_continue(holders: &Arc<Holders>) {
        let h = holder("h");
        let secret = holders.verify(&h, None).await.unwrap();
        assert!(secret.is_some());
        assert_eq!(holders.verify(&h, secret).await, Ok(None));
        for forged in [None, OTHER] {
            assert_eq!(holders.verify(&h, forged).await, Err(Rejected::WrongSecret));
            assert!(matches!(holders.connect(h.clone(), forged).await, Err(Rejected::WrongSecret)));
        }
        assert!(holders.connect(h.clone(), secret).await.is_ok());
        assert_eq!(holders.metrics.streams.holders_refused.get(), 4);
        // A client may choose its secret.
        assert_eq!(holders.verify(&holder("g"), ONE).await, Ok(None));
        assert_eq!(holders.verify(&holder("g"), None).await, Err(Rejected::WrongSecret));
    }

    #[tokio::test]
    async fn only_the_first_caller_may_continue_with_a_store() {
        only_the_first_caller_may_continue(&holders()).await;
    }

    #[tokio::test]
    async fn only_the_first_caller_may_continue_without_a_store() {
        let holders = without_store();
        only_the_first_caller_may_continue(&holders).await;
        holders.write_waiting().await;
        assert!(holders.known.lock().values().all(|known| known.confirmed.is_none()));
    }

    /// A forged claim must not end the stream of the holder.
    #[tokio::test]
    async fn a_second_stream_ends_the_first_and_waits_for_its_operations() {
        for holders in [holders(), without_store()] {
            let first = holders.connect(holder("h"), ONE).await.unwrap();
            assert!(holders.connect(holder("h"), OTHER).await.is_err());
            assert!(!first.ended.is_cancelled());
            let connecting = {
                let holders = Arc::clone(&holders);
                tokio::spawn(async move { holders.connect(holder("h"), ONE).await.unwrap() })
            };
            first.replaced().await;
            assert!(!connecting.is_finished(), "the first stream has operations in progress");
            drop(first);
            let second = connecting.await.unwrap();
            assert_eq!(second.renew().await, Ok(()));
            assert_eq!(holders.streams.lock().len(), 1, "dropping the first leaves the second registered");
            drop(second);
            assert!(holders.streams.lock().is_empty());
        }
    }

    #[tokio::test]
    async fn a_stream_notices_a_newer_stream_at_another_sidecar() {
        let here = holders();
        let there = Holders::new(Arc::clone(&here.store), Arc::clone(&here.metrics));
        let first = here.connect(holder("h"), ONE).await.unwrap();
        assert_eq!(first.renew().await, Ok(()));
        let second = there.connect(holder("h"), ONE).await.unwrap();
        assert_eq!(first.renew().await, Err(Rejected::Replaced));
        assert_eq!(second.renew().await, Ok(()));
    }
}
