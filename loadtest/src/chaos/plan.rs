//! Which faults happen, in which order. The seed alone decides.

use std::time::Duration;

use clap::ValueEnum;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::SliceRandom as _};
use serde::Serialize;

use super::store::Topology;

/// The kind of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Kind {
    /// A sidecar is killed and started again.
    SidecarKill,
    /// A sidecar is stopped with SIGTERM and started again.
    SidecarRestart,
    SidecarFreeze,
    /// A gateway is killed, and another takes its place.
    GatewayKill,
    /// A gateway ends its requests and leaves, and another takes its place.
    GatewayRestart,
    GatewayFreeze,
    /// A Redis process is killed and started again. In a cluster, it is one of the masters.
    RedisKill,
    /// A Redis process is stopped with SIGTERM and started again.
    RedisRestart,
    RedisFreeze,
    /// Every byte between a sidecar and Redis is late.
    Delay,
    /// No byte passes between sidecars and Redis, and connections stay open.
    BlackHole,
    /// Connections to Redis end, and new ones are refused.
    Refuse,
    /// All connections to Redis end once, in order.
    Cut,
    /// All connections to Redis end once, by RST.
    Reset,
    /// All connections to Redis stay open, and nothing arrives on them any more. New ones work.
    Strand,
    /// Redis's clock jumps by a few milliseconds.
    ClockStep,
    /// Redis's clock jumps by a minute, and back later.
    ClockJump,
    /// The primary is killed, and the replica is promoted.
    FailoverKilled,
    /// The primary hangs, and the replica is promoted.
    FailoverFrozen,
    /// The replica is promoted while the old primary still serves, which follows later.
    FailoverReachable,
    /// The network cuts the primary off from everybody, and the sentinels promote the replica.
    FailoverPartition,
    /// A sentinel and the primary are killed. After the failover, both return, and name or are the old primary.
    FailoverStaleSentinel,
    /// The host of the primary and of a sentinel hangs. After the failover, both go on.
    FailoverHostFrozen,
    /// One sentinel, or all, are killed and started again.
    SentinelKill,
    SentinelFreeze,
    /// All sentinels are killed, lose their configuration, and watch the primary anew. They count their epochs from 0.
    SentinelRebuild,
    /// The slot of the pool moves to another master.
    PoolMigration,
    /// The slot of a consumer's counters moves to another master.
    ConsumerMigration,
    /// A sidecar is killed while it cannot reach Redis.
    SidecarKillInOutage,
}

impl Kind {
    const COMMON: [Self; 9] = [
        Self::SidecarKill,
        Self::SidecarRestart,
        Self::SidecarFreeze,
        Self::GatewayKill,
        Self::GatewayRestart,
        Self::GatewayFreeze,
        Self::RedisKill,
        Self::RedisRestart,
        Self::RedisFreeze,
    ];
    /// Faults of the proxies. Sidecars reach the nodes of a cluster directly.
    const NETWORK: [Self; 7] = [
        Self::Delay,
        Self::BlackHole,
        Self::Refuse,
        Self::Cut,
        Self::Reset,
        Self::Strand,
        Self::SidecarKillInOutage,
    ];

    /// Returns the faults of a topology. `clocks`: whether Redis's clock can be shifted.
    pub(super) fn all(topology: Topology, clocks: bool) -> Vec<Self> {
        let mut kinds = Self::COMMON.to_vec();
        match topology {
            Topology::AofAlways | Topology::AofEverysec => {
                kinds.extend(Self::NETWORK);
                if clocks {
                    kinds.extend([Self::ClockStep, Self::ClockJump]);
                }
            }
            Topology::Replica => {
                kinds.extend(Self::NETWORK);
                kinds.extend([Self::FailoverKilled, Self::FailoverFrozen, Self::FailoverReachable]);
            }
            Topology::Sentinel => {
                kinds.extend(Self::NETWORK);
                kinds.extend([Self::FailoverKilled, Self::FailoverFrozen, Self::FailoverReachable]);
                kinds.extend([
                    Self::FailoverPartition,
                    Self::FailoverStaleSentinel,
                    Self::FailoverHostFrozen,
                ]);
                kinds.extend([Self::SentinelKill, Self::SentinelFreeze, Self::SentinelRebuild]);
            }
            Topology::Cluster => kinds.extend([Self::PoolMigration, Self::ConsumerMigration]),
        }
        kinds
    }

    /// Returns whether the fault stops a sidecar or a gateway, which then cannot ask or answer in time.
    pub(super) fn stops_callers(self) -> bool {
        matches!(
            self,
            Self::SidecarKill
                | Self::SidecarRestart
                | Self::SidecarFreeze
                | Self::SidecarKillInOutage
                | Self::GatewayFreeze
        )
    }

    /// Returns the longest time that the fault lasts.
    fn lasts_max(self) -> Duration {
        Duration::from_millis(match self {
            Self::ClockStep | Self::Cut | Self::Reset | Self::Strand => 0,
            Self::GatewayKill | Self::GatewayRestart => 0,
            Self::RedisKill | Self::RedisRestart => 1500,
            Self::FailoverKilled | Self::FailoverFrozen | Self::FailoverReachable => 800,
            Self::FailoverPartition | Self::FailoverStaleSentinel | Self::FailoverHostFrozen => 800,
            Self::SidecarFreeze | Self::GatewayFreeze => 4000,
            _ => 2500,
        })
    }
}

/// A fault with its target and its times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    /// Chooses the target. The run divides it by the number of targets.
    pub(super) target: usize,
    pub(super) lasts: Duration,
    /// How long the system runs undisturbed before the fault.
    pub(super) after: Duration,
}

/// The faults of one topology, without an end.
#[derive(Debug)]
pub(super) struct Plan {
    rng: SmallRng,
    kinds: Vec<Kind>,
    deck: Vec<Kind>,
}

impl Plan {
    pub(super) fn new(seed: u64, kinds: Vec<Kind>) -> Self {
        Self { rng: SmallRng::seed_from_u64(seed), kinds, deck: Vec::new() }
    }
}

impl Iterator for Plan {
    type Item = Fault;

    /// Returns the next fault. Each kind happens once before any happens again.
    fn next(&mut self) -> Option<Fault> {
        if self.deck.is_empty() {
            self.deck.clone_from(&self.kinds);
            self.deck.shuffle(&mut self.rng);
        }
        let kind = self.deck.pop()?;
        let part = self.rng.random_range(0.1..1.0);
        Some(Fault {
            kind,
            target: self.rng.random_range(0..1000),
            lasts: kind.lasts_max().mul_f64(part),
            after: Duration::from_millis(self.rng.random_range(300..1000)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_faults_and_each_kind_comes_before_any_comes_again() {
        for topology in Topology::ALL {
            let kinds = Kind::all(topology, true);
            let plan = |seed| Plan::new(seed, kinds.clone()).take(2 * kinds.len()).collect::<Vec<_>>();
            assert_eq!(plan(7), plan(7));
            assert_ne!(plan(7), plan(8));
            let mut first: Vec<Kind> = plan(7)[..kinds.len()].iter().map(|fault| fault.kind).collect();
            first.sort_unstable();
            let mut sorted = kinds.clone();
            sorted.sort_unstable();
            assert_eq!(first, sorted);
        }
    }
}
