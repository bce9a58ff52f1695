//! Makes a fault happen, and ends it.

use std::time::{Duration, Instant};

use super::{
    gateway::{LEAVE_WITHIN, consumer_name},
    plan::{Fault, Kind},
    proxy::{End, Mode},
    system::{SIDECARS, System},
    table,
    truth::{About, Doubt},
};
use crate::{lab::LabError, wait};

/// Time that a sidecar may take to stop: it waits up to 10 s for calls and up to 5 s for the store.
const STOP_WITHIN: Duration = Duration::from_secs(30);
/// A sidecar sends usage to the ledger twice a second, and the call takes some time. After an outage, the first attempt
/// comes up to 5 s later.
const LEDGER_INTERVAL: Duration = Duration::from_millis(1500);
const LEDGER_INTERVAL_AFTER_OUTAGE: Duration = Duration::from_millis(6000);
/// Settlements that wait in a sidecar without an outage failed at most this long ago.
const QUEUE_AGE: Duration = Duration::from_secs(5);
const JUMP_MS: i64 = 60_000;

/// An old primary that becomes a replica after the checks that follow a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Follow {
    pub(super) node: usize,
    pub(super) away: Away,
}

/// Why an old primary does not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Away {
    Serves,
    Killed,
    Frozen,
    /// The network does not reach it.
    CutOff,
}

/// A fault that has ended.
#[derive(Debug)]
pub(super) struct Injected {
    pub(super) target: String,
    pub(super) began: Instant,
    pub(super) healed: Instant,
    /// They last until the system has recovered.
    pub(super) doubts: Vec<Doubt>,
    /// Whether sidecars decided without the store.
    pub(super) outage: bool,
    pub(super) follow: Option<Follow>,
    /// When the primary stopped to answer until others had replaced it. `None`: it may have answered until sidecars left
    /// it.
    pub(super) gone: Option<Instant>,
}

impl Injected {
    pub(super) fn begin(target: String) -> Self {
        let now = Instant::now();
        let doubts = Vec::new();
        Self { target, began: now, healed: now, doubts, outage: false, follow: None, gone: None }
    }

    pub(super) fn doubt(&mut self, from: Instant, about: About) {
        self.doubts.push(Doubt { from, to: from, about });
    }

    pub(super) fn healed(mut self) -> Self {
        self.healed = Instant::now();
        self
    }
}

impl System {
    /// Makes a fault happen and ends it. Returns once it has ended, before the system has recovered.
    pub(super) async fn inject(&mut self, fault: Fault) -> Result<Injected, LabError> {
        if self.store.sentinels.is_none() {
            return self.make(fault).await;
        }
        self.safe = self.confirm().await?;
        let mut injected = self.make(fault).await?;
        // The fault lasts until the sentinels agree.
        if self.adopt_primary(injected.gone).await? {
            injected.target += &format!(", now redis {}", self.store.primary);
            injected.outage = true;
        }
        Ok(injected.healed())
    }

    async fn make(&mut self, fault: Fault) -> Result<Injected, LabError> {
        match fault.kind {
            Kind::SidecarKill | Kind::SidecarRestart | Kind::SidecarFreeze | Kind::SidecarKillInOutage => {
                self.stop_sidecar(fault).await
            }
            Kind::GatewayKill | Kind::GatewayRestart | Kind::GatewayFreeze => self.stop_gateway(fault).await,
            Kind::RedisKill | Kind::RedisRestart | Kind::RedisFreeze => self.stop_redis(fault).await,
            Kind::Delay | Kind::BlackHole | Kind::Refuse | Kind::Cut | Kind::Reset | Kind::Strand => {
                self.disturb_network(fault).await
            }
            Kind::ClockStep | Kind::ClockJump => self.shift_clock(fault).await,
            Kind::FailoverKilled
            | Kind::FailoverFrozen
            | Kind::FailoverReachable
            | Kind::FailoverPartition
            | Kind::FailoverStaleSentinel
            | Kind::FailoverHostFrozen => match self.store.sentinels {
                Some(_) => self.let_sentinels_fail_over(fault).await,
                None => self.fail_over(fault).await,
            },
            Kind::SentinelKill | Kind::SentinelFreeze | Kind::SentinelRebuild => {
                self.stop_sentinels(fault).await
            }
            Kind::PoolMigration | Kind::ConsumerMigration => self.migrate(fault).await,
        }
    }

    async fn stop_sidecar(&mut self, fault: Fault) -> Result<Injected, LabError> {
        let sidecar = fault.target % SIDECARS;
        let mut injected = Injected::begin(format!("sidecar {sidecar}"));
        match fault.kind {
            Kind::SidecarFreeze => {
                self.sidecars[sidecar].pause()?;
                self.observe(fault.lasts).await;
                self.sidecars[sidecar].resume()?;
            }
            Kind::SidecarRestart => {
                self.sidecars[sidecar].terminate(STOP_WITHIN).await?;
                self.observe(fault.lasts).await;
                self.restart_sidecar(sidecar).await?;
            }
            Kind::SidecarKillInOutage => {
                let proxy = self.proxy_of(sidecar);
                self.proxies[proxy].set(Mode::BlackHole);
                tokio::time::sleep(fault.lasts).await;
                self.kill_sidecar(sidecar)?;
                self.proxies[proxy].set(Mode::Pass);
                injected.doubt(injected.began, About::QueueLoss { sidecar });
                injected.doubt(self.unsent_usage_since(injected.began), About::LedgerLoss { sidecar });
                injected.outage = true;
                self.restart_sidecar(sidecar).await?;
            }
            _ => {
                let has_waiting = self.has_waiting(sidecar).await;
                let killed = self.kill_sidecar(sidecar)?;
                if has_waiting {
                    injected.doubt(killed - QUEUE_AGE, About::QueueLoss { sidecar });
                }
                injected.doubt(self.unsent_usage_since(killed), About::LedgerLoss { sidecar });
                self.observe(fault.lasts).await;
                self.restart_sidecar(sidecar).await?;
            }
        }
        Ok(injected.healed())
    }

    /// Returns the index of the proxy between a sidecar and Redis.
    fn proxy_of(&self, sidecar: usize) -> usize {
        if self.store.sentinels.is_some() { self.store.primary } else { sidecar }
    }

    /// Waits until the store keeps what it has answered. Returns since when it may lose charges.
    async fn confirm(&self) -> Result<Instant, LabError> {
        let mut safe = Instant::now();
        for sidecar in 0..SIDECARS {
            if self.has_waiting(sidecar).await {
                safe -= QUEUE_AGE;
            }
        }
        Ok(safe.min(self.store.confirm().await?))
    }

    /// Returns whether a sidecar may have settlements that it has acknowledged and not sent to the store.
    async fn has_waiting(&self, sidecar: usize) -> bool {
        self.metric(sidecar, "evenkeel_limit_settlements_waiting").await != Some(0.0)
    }

    /// Returns since when a sidecar may have usage that it has not sent to the ledger.
    fn unsent_usage_since(&self, now: Instant) -> Instant {
        let regular = now - LEDGER_INTERVAL;
        let after_outage = self.last_outage.filter(|(_, to)| *to + LEDGER_INTERVAL_AFTER_OUTAGE > now);
        after_outage.map_or(regular, |(from, _)| regular.min(from - LEDGER_INTERVAL))
    }

    async fn stop_gateway(&mut self, fault: Fault) -> Result<Injected, LabError> {
        let index = fault.target % self.gateways.len();
        let gateway = &self.gateways[index];
        let injected = Injected::begin(format!("{} ({:?})", gateway.holder, gateway.calls));
        if fault.kind == Kind::GatewayFreeze {
            let frozen = gateway.freeze();
            self.observe(fault.lasts).await;
            drop(frozen);
            return Ok(injected.healed());
        }
        if fault.kind == Kind::GatewayRestart {
            gateway.leave();
            let left = async || self.gateways[index].has_left();
            wait::until(format!("{} to leave", injected.target), LEAVE_WITHIN, left).await?;
        }
        let next = self.new_gateway(index)?;
        let old = std::mem::replace(&mut self.gateways[index], next);
        old.kill();
        Ok(injected.healed())
    }

    async fn stop_redis(&mut self, fault: Fault) -> Result<Injected, LabError> {
        // A replica that stops disturbs nobody.
        let node =
            if self.proxies.is_empty() { fault.target % self.store.nodes.len() } else { self.store.primary };
        let mut injected = Injected::begin(format!("redis {node}"));
        if fault.kind == Kind::RedisFreeze {
            self.store.nodes[node].freeze()?;
            tokio::time::sleep(fault.lasts).await;
            self.store.nodes[node].thaw()?;
        } else {
            let safe = self.confirm().await?;
            injected.began = Instant::now();
            if fault.kind == Kind::RedisKill {
                self.store.nodes[node].kill()?;
                if self.store.topology.may_lose() {
                    injected.doubt(safe, About::StoreLoss);
                    injected.doubt(self.unsent_usage_since(safe), About::LateUsage);
                }
            } else {
                self.store.nodes[node].terminate().await?;
            }
            tokio::time::sleep(fault.lasts).await;
            self.store.restart(node).await?;
        }
        injected.outage = true;
        Ok(injected.healed())
    }

    async fn disturb_network(&mut self, fault: Fault) -> Result<Injected, LabError> {
        let which = fault.target % (SIDECARS + 1);
        let (target, proxies) = match self.proxies.get(which) {
            _ if self.store.sentinels.is_some() => {
                let primary = self.store.primary;
                (format!("all to redis {primary}"), std::slice::from_ref(&self.proxies[primary]))
            }
            Some(proxy) => (format!("sidecar {which} to Redis"), std::slice::from_ref(proxy)),
            None => ("all sidecars to Redis".to_owned(), &self.proxies[..]),
        };
        let mut injected = Injected::begin(target);
        let set = |mode| proxies.iter().for_each(|proxy| proxy.set(mode));
        let end = |end| proxies.iter().for_each(|proxy| proxy.end_connections(end));
        match fault.kind {
            Kind::Delay => {
                // From harmless to above the sidecars' timeout, each way.
                let late = Duration::from_millis(5 + fault.target as u64 % 150);
                injected.target = format!("{}, {} ms", injected.target, late.as_millis());
                set(Mode::Delay(late));
            }
            Kind::BlackHole => set(Mode::BlackHole),
            Kind::Refuse => {
                set(Mode::Refuse);
                end(End::Reset);
            }
            Kind::Cut => end(End::Close),
            Kind::Reset => end(End::Reset),
            _ => end(End::Strand),
        }
        tokio::time::sleep(fault.lasts).await;
        set(Mode::Pass);
        injected.outage = true;
        Ok(injected.healed())
    }

    async fn shift_clock(&mut self, fault: Fault) -> Result<Injected, LabError> {
        let by_ms = match fault.kind {
            Kind::ClockStep => fault.target as i64 % 100 - 50,
            _ if fault.target.is_multiple_of(2) => JUMP_MS,
            _ => -JUMP_MS,
        };
        let injected = Injected::begin(format!("redis 0 by {by_ms} ms"));
        self.store.shift_clock(by_ms)?;
        if fault.kind == Kind::ClockJump {
            self.observe(fault.lasts).await;
            self.store.shift_clock(-by_ms)?;
        }
        Ok(injected.healed())
    }

    async fn fail_over(&mut self, fault: Fault) -> Result<Injected, LabError> {
        let (old, new) = (self.store.primary, 1 - self.store.primary);
        let mut injected = Injected::begin(format!("redis {old} to redis {new}"));
        let safe = self.confirm().await?;
        injected.began = Instant::now();
        injected.doubt(safe, About::StoreLoss);
        injected.doubt(self.unsent_usage_since(safe), About::LateUsage);
        injected.outage = true;
        match fault.kind {
            Kind::FailoverKilled => self.store.nodes[old].kill()?,
            Kind::FailoverFrozen => self.store.nodes[old].freeze()?,
            _ => {}
        }
        if fault.kind != Kind::FailoverReachable {
            tokio::time::sleep(fault.lasts).await;
        }
        let () = self.store.nodes[new].command(&["REPLICAOF", "NO", "ONE"]).await?;
        self.store.primary = new;
        let port = self.store.nodes[new].port();
        self.proxies.iter().for_each(|proxy| proxy.lead_to(port));
        if fault.kind == Kind::FailoverReachable {
            // Sidecars that are still connected to the old primary count there.
            tokio::time::sleep(fault.lasts).await;
            let port = port.to_string();
            let () = self.store.nodes[old].command(&["REPLICAOF", "127.0.0.1", &port]).await?;
        }
        let away = match fault.kind {
            Kind::FailoverKilled => Away::Killed,
            Kind::FailoverFrozen => Away::Frozen,
            _ => Away::Serves,
        };
        injected.follow = Some(Follow { node: old, away });
        Ok(injected.healed())
    }

    async fn migrate(&mut self, fault: Fault) -> Result<Injected, LabError> {
        let key = if fault.kind == Kind::PoolMigration {
            table::counts_key()
        } else {
            format!("ek2:{{consumer={}}}:counters", consumer_name(fault.target % super::CONSUMERS))
        };
        let mut injected = Injected::begin(String::new());
        injected.target = self.store.migrate_slot(&key, fault.lasts).await?;
        injected.outage = true;
        Ok(injected.healed())
    }

    /// Lets an old primary serve again.
    pub(super) async fn bring_back(&mut self, Follow { node, away }: Follow) -> Result<(), LabError> {
        match away {
            Away::Serves => {}
            Away::Killed => self.store.nodes[node].launch().await?,
            Away::Frozen => self.store.nodes[node].thaw()?,
            Away::CutOff => self.proxies[node].set(Mode::Pass),
        }
        Ok(())
    }

    /// Makes the old primary a replica after a failover.
    pub(super) async fn clean_up(&mut self, follow: Option<Follow>) -> Result<(), LabError> {
        if let Some(follow) = follow {
            self.bring_back(follow).await?;
        }
        if self.store.sentinels.is_some() {
            return self.await_redundancy().await;
        }
        let Some(Follow { node, .. }) = follow else { return Ok(()) };
        self.store.follow(node, self.store.nodes[self.store.primary].port()).await
    }
}
