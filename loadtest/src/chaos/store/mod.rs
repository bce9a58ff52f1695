//! The Redis processes of a run, in each topology.

mod cluster;
mod node;
mod sentinel;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use redis::FromRedisValue;
use serde::Serialize;

pub(super) use self::{
    node::Node,
    sentinel::{Agreed, SENTINELS, Sentinels},
};
use super::{clock::Clock, proxy::Proxy};
use crate::{
    lab::{LabError, LabError::Response},
    wait,
};

const SYNC_WITHIN: Duration = Duration::from_secs(20);

/// How the sidecars' Redis is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Topology {
    /// One server that synchronises its append-only file before it answers.
    AofAlways,
    /// One server that synchronises its append-only file every second.
    AofEverysec,
    /// A primary and a replica. An operator promotes the replica, and the address leads to it.
    Replica,
    /// A primary and a replica. Three sentinels watch them, and promote the replica. The sidecars ask the sentinels.
    Sentinel,
    /// A Redis Cluster of three masters, each with an append-only file.
    Cluster,
}

impl Topology {
    pub const ALL: [Self; 5] =
        [Self::AofAlways, Self::AofEverysec, Self::Replica, Self::Sentinel, Self::Cluster];

    pub fn name(self) -> &'static str {
        match self {
            Self::AofAlways => "aof_always",
            Self::AofEverysec => "aof_everysec",
            Self::Replica => "replica",
            Self::Sentinel => "sentinel",
            Self::Cluster => "cluster",
        }
    }

    /// Returns whether the store may lose writes that it has answered when a process is killed.
    pub(super) fn may_lose(self) -> bool {
        matches!(self, Self::AofEverysec) || self.has_replica()
    }

    /// Returns whether a replica follows the primary.
    fn has_replica(self) -> bool {
        matches!(self, Self::Replica | Self::Sentinel)
    }
}

#[derive(Debug)]
pub(super) struct Store {
    pub(super) topology: Topology,
    pub(super) nodes: Vec<Node>,
    /// Index of the primary, except in a cluster.
    pub(super) primary: usize,
    /// The sentinels' number of the last failover that the run has noticed; 0 without sentinels.
    pub(super) epoch: u64,
    /// Only in the topology of that name.
    pub(super) sentinels: Option<Sentinels>,
    /// The clock of the only server; `None` on a machine without a C compiler, and with several servers.
    pub(super) clock: Option<Clock>,
}

impl Store {
    /// Starts the servers. `proxies`: with sentinels, how the two servers are reached.
    pub(super) async fn start(topology: Topology, dir: &Path, proxies: &[Proxy]) -> Result<Self, LabError> {
        let always = ["--appendonly", "yes", "--appendfsync", "always"];
        let everysec = ["--appendonly", "yes", "--appendfsync", "everysec"];
        let (mut nodes, mut clock) = (Vec::new(), None);
        match topology {
            Topology::AofAlways | Topology::AofEverysec => {
                clock = Clock::compile(dir)?;
                let args = if topology == Topology::AofAlways { always } else { everysec };
                nodes.push(Node::start("redis-0", dir, &args, clock.as_ref()).await?);
            }
            Topology::Replica => {
                for name in ["redis-0", "redis-1"] {
                    nodes.push(Node::start(name, dir, &everysec, None).await?);
                }
            }
            Topology::Sentinel => nodes = sentinel::start_servers(dir, &everysec, proxies).await?,
            Topology::Cluster => nodes = cluster::start(dir, &always).await?,
        }
        let mut store = Self { topology, nodes, primary: 0, epoch: 0, sentinels: None, clock };
        match topology {
            Topology::Replica => store.follow(1, store.nodes[0].port()).await?,
            Topology::Sentinel => {
                // The sentinels look for replicas at once, and later only at intervals.
                store.follow(1, proxies[0].port()).await?;
                store.sentinels = Some(Sentinels::start(dir, proxies).await?);
            }
            _ => {}
        }
        Ok(store)
    }

    /// Starts a process again, and waits until it serves.
    pub(super) async fn restart(&mut self, node: usize) -> Result<(), LabError> {
        self.nodes[node].launch().await?;
        if self.topology == Topology::Cluster {
            cluster::wait_complete(&self.nodes).await?;
        }
        Ok(())
    }

    /// Lets the clock of the only server jump.
    pub(super) fn shift_clock(&mut self, by_ms: i64) -> Result<(), LabError> {
        self.clock.as_mut().map_or(Ok(()), |clock| clock.shift(by_ms))
    }

    /// Makes a node a replica of the primary at this port, and waits until it has the primary's data.
    pub(super) async fn follow(&self, replica: usize, primary: u16) -> Result<(), LabError> {
        let primary = primary.to_string();
        let () = self.nodes[replica].command(&["REPLICAOF", "127.0.0.1", &primary]).await?;
        let is_synced = async || {
            let status = self.nodes[replica].info("replication", "master_link_status").await;
            status.is_ok_and(|status| status == "up")
        };
        Ok(wait::until("the replica to follow", SYNC_WITHIN, is_synced).await?)
    }

    /// Waits until everything that the store has answered so far survives the death of a process. Returns the time
    /// before which every answer is safe.
    pub(super) async fn confirm(&self) -> Result<Instant, LabError> {
        let before = Instant::now();
        if self.topology.may_lose() {
            self.wait_written().await?;
        }
        if self.topology.has_replica() {
            self.wait_replicated().await?;
        }
        Ok(before)
    }

    /// Waits until the append-only file has everything. Redis before 7.2 has no WAITAOF, but a killed process loses only
    /// what it has not handed to the kernel.
    async fn wait_written(&self) -> Result<(), LabError> {
        let is_written = async || {
            let waiting = self.nodes[self.primary].info("persistence", "aof_buffer_length").await;
            waiting.is_ok_and(|bytes| bytes == "0")
        };
        Ok(wait::until("the append-only file", SYNC_WITHIN, is_written).await?)
    }

    /// Waits until the replica has everything. WAIT covers the writes of its own connection, and the replica receives
    /// all writes in their order. After a restart of the primary, the replica connects first.
    async fn wait_replicated(&self) -> Result<(), LabError> {
        let mut connection = self.nodes[self.primary].connect().await?;
        let mark = redis::cmd("SET").arg("chaos-mark").arg(1).exec_async(&mut connection).await;
        mark.map_err(|source| LabError::Redis { what: "SET", source })?;
        let is_replicated = async || {
            let mut connection = connection.clone();
            let replicas = redis::cmd("WAIT").arg(1).arg(100).query_async::<u64>(&mut connection).await;
            replicas.is_ok_and(|replicas| replicas > 0)
        };
        Ok(wait::until("the replica to acknowledge", SYNC_WITHIN, is_replicated).await?)
    }

    /// Returns the index of the node that has this key.
    pub(super) async fn owner(&self, key: &str) -> Result<usize, LabError> {
        if self.topology != Topology::Cluster {
            return Ok(self.primary);
        }
        for (index, node) in self.nodes.iter().enumerate() {
            if node.command::<u64>(&["EXISTS", key]).await.is_ok() {
                return Ok(index);
            }
        }
        Err(Response { what: format!("no node has {key}") })
    }

    /// Runs a script that reads keys of one slot.
    pub(super) async fn eval<T: FromRedisValue>(&self, script: &str, key: &str) -> Result<T, LabError> {
        let owner = self.owner(key).await?;
        self.nodes[owner].command(&["EVAL", script, "1", key]).await
    }

    /// Returns all keys.
    pub(super) async fn keys(&self) -> Result<Vec<String>, LabError> {
        let mut keys = Vec::new();
        for node in self.holding() {
            keys.extend(node.command::<Vec<String>>(&["KEYS", "*"]).await?);
        }
        Ok(keys)
    }

    /// Returns the bytes that the data takes.
    pub(super) async fn memory(&self) -> Result<u64, LabError> {
        let mut sum = 0;
        for node in self.holding() {
            sum += node.info("memory", "used_memory_dataset").await?.parse().unwrap_or(0);
        }
        Ok(sum)
    }

    /// Returns the nodes that have data which no other node has.
    fn holding(&self) -> &[Node] {
        match self.topology {
            Topology::Cluster => &self.nodes,
            _ => &self.nodes[self.primary..=self.primary],
        }
    }
}
