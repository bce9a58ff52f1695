//! Faults with Redis Sentinel: the sentinels decide when to fail over, and which server is the primary.

use std::time::{Duration, Instant};

use super::{
    inject::{Away, Follow, Injected},
    plan::{Fault, Kind},
    proxy::Mode,
    store::{Agreed, SENTINELS},
    system::System,
    truth::{About, Doubt},
};
use crate::{
    lab::{LabError, LabError::Response},
    wait::WaitError,
};

/// Longest time until an old primary that has come back follows the new one. The sentinels demote it after some seconds.
const REDUNDANT_WITHIN: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Time in which a sidecar that has lost its primary learns which server the sentinels name. An old primary that comes back
/// earlier may serve sidecars again.
const LOOK_WITHIN: Duration = Duration::from_millis(600);
/// Time after a failover in which a sidecar may still use the old primary: it asks the sentinels every second.
const FOLLOW_WITHIN: Duration = Duration::from_secs(2);

impl System {
    /// Makes the primary fail, and waits until the sentinels have promoted the replica. The old primary returns at once,
    /// before it knows that it has been replaced, or after the checks.
    pub(super) async fn let_sentinels_fail_over(&mut self, fault: Fault) -> Result<Injected, LabError> {
        let (old, new) = (self.store.primary, 1 - self.store.primary);
        let sentinel = fault.target % SENTINELS;
        let mut injected = Injected::begin(format!("redis {old}"));
        let away = match fault.kind {
            Kind::FailoverKilled | Kind::FailoverStaleSentinel => Away::Killed,
            Kind::FailoverFrozen | Kind::FailoverHostFrozen => Away::Frozen,
            Kind::FailoverPartition => Away::CutOff,
            _ => Away::Serves,
        };
        let with_sentinel = matches!(fault.kind, Kind::FailoverStaleSentinel | Kind::FailoverHostFrozen);
        if with_sentinel {
            injected.target += &format!(" and sentinel {sentinel}");
            let node = &mut self.sentinels()?.nodes[sentinel];
            if away == Away::Frozen { node.freeze() } else { node.kill() }?;
        }
        match away {
            Away::Serves => self.sentinels()?.fail_over().await?,
            Away::Killed => self.store.nodes[old].kill()?,
            Away::Frozen => self.store.nodes[old].freeze()?,
            Away::CutOff => self.proxies[old].set(Mode::BlackHole),
        }
        if away != Away::Serves {
            injected.gone = Some(Instant::now());
        }
        self.store.await_promotion(new).await?;
        self.store.agreed_primary().await?;
        tokio::time::sleep(fault.lasts.max(LOOK_WITHIN)).await;
        let follow = Follow { node: old, away };
        // The stale sentinel and the server that it names must be there at the same time.
        let at_once = with_sentinel || fault.target.is_multiple_of(2);
        if at_once {
            self.bring_back(follow).await?;
        } else {
            injected.follow = Some(follow);
        }
        if with_sentinel && away == Away::Frozen {
            self.sentinels()?.nodes[sentinel].thaw()?;
        } else if with_sentinel {
            self.sentinels()?.restart(sentinel).await?;
        }
        Ok(injected)
    }

    pub(super) async fn stop_sentinels(&mut self, fault: Fault) -> Result<Injected, LabError> {
        let which =
            if fault.kind == Kind::SentinelRebuild { SENTINELS } else { fault.target % (SENTINELS + 1) };
        let stopped = if which < SENTINELS { which..which + 1 } else { 0..SENTINELS };
        let injected = Injected::begin(match which {
            SENTINELS => "all sentinels".to_owned(),
            one => format!("sentinel {one}"),
        });
        for index in stopped.clone() {
            let sentinel = &mut self.sentinels()?.nodes[index];
            if fault.kind == Kind::SentinelFreeze { sentinel.freeze() } else { sentinel.kill() }?;
        }
        self.observe(fault.lasts).await;
        if fault.kind == Kind::SentinelRebuild {
            let primary = self.store.primary;
            self.sentinels()?.forget(primary)?;
            self.store.epoch = 0;
        }
        for index in stopped {
            if fault.kind == Kind::SentinelFreeze {
                self.sentinels()?.nodes[index].thaw()?;
            } else {
                self.sentinels()?.restart(index).await?;
            }
        }
        Ok(injected)
    }

    fn sentinels(&mut self) -> Result<&mut super::store::Sentinels, LabError> {
        let missing = || Response { what: "the topology has no sentinels".to_owned() };
        self.store.sentinels.as_mut().ok_or_else(missing)
    }

    /// Waits until the sentinels agree, and adopts the primary that they name. Returns whether they have failed over. What
    /// the old one had answered until `gone` and not replicated is then in doubt.
    pub(super) async fn adopt_primary(&mut self, gone: Option<Instant>) -> Result<bool, LabError> {
        let Agreed { primary, epoch } = self.store.agreed_primary().await?;
        if (primary, epoch) == (self.store.primary, self.store.epoch) {
            return Ok(false);
        }
        (self.store.primary, self.store.epoch) = (primary, epoch);
        let to = gone.unwrap_or_else(|| Instant::now() + FOLLOW_WITHIN);
        self.failovers.push(Doubt { from: self.safe, to, about: About::Failover });
        Ok(true)
    }

    /// Waits until the other server follows the primary, and all sentinels know.
    pub(super) async fn await_redundancy(&mut self) -> Result<(), LabError> {
        let start = Instant::now();
        loop {
            self.adopt_primary(None).await?;
            if self.store.is_redundant().await {
                return Ok(());
            }
            if start.elapsed() > REDUNDANT_WITHIN {
                let what = "the replica and the sentinels".to_owned();
                return Err(WaitError { what, within: REDUNDANT_WITHIN }.into());
            }
            self.observe(POLL_INTERVAL).await;
        }
    }

    /// Returns whether sidecars still use a server that the sentinels have replaced.
    pub(super) async fn left_behind(&self) -> Option<String> {
        self.store.sentinels.as_ref()?;
        let old = 1 - self.store.primary;
        let node = &self.store.nodes[old];
        // Nobody learns through the proxy that a connection has ended, and the sentinels try to connect.
        if !node.serves() || !self.proxies[old].passes() {
            return None;
        }
        let clients: String = node.command(&["CLIENT", "LIST", "TYPE", "normal"]).await.ok()?;
        let is_sidecar = |line: &&str| {
            let has = |field: &str| line.split(' ').any(|found| found.starts_with(field));
            !has("name=sentinel-") && !has("cmd=client") && !has("cmd=info")
        };
        let client = clients.lines().find(is_sidecar)?;
        Some(format!("a client still uses redis {old}, which is no primary: {client}"))
    }
}
