//! A Redis Cluster of three masters, and the migration of a slot.

use std::{path::Path, time::Duration};

use super::{Node, Store};
use crate::{
    lab::{LabError, ports},
    wait,
};

const MASTERS: usize = 3;
const SLOTS: usize = 16_384;
const READY_WITHIN: Duration = Duration::from_secs(30);

pub(super) async fn start(dir: &Path, persistence: &[&str]) -> Result<Vec<Node>, LabError> {
    let mut nodes = Vec::new();
    for index in 0..MASTERS {
        let bus = ports::free_port()?.to_string();
        // With full coverage required, one dead master would stop the others too.
        let mut args = vec!["--cluster-enabled", "yes", "--cluster-port", &bus];
        args.extend(["--cluster-node-timeout", "2000", "--cluster-require-full-coverage", "no"]);
        args.extend(persistence);
        let node = Node::start(&format!("redis-{index}"), dir, &args, None).await?;
        let (first, end) = (index * SLOTS / MASTERS, (index + 1) * SLOTS / MASTERS);
        let (first, last, epoch) = (first.to_string(), (end - 1).to_string(), (index + 1).to_string());
        let () = node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).await?;
        let () = node.command(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]).await?;
        if let Some(met) = nodes.first() {
            let met: &Node = met;
            let port = node.port().to_string();
            let () = met.command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await?;
        }
        nodes.push(node);
    }
    wait_complete(&nodes).await?;
    Ok(nodes)
}

/// Waits until all masters serve all slots. A master that has restarted refuses calls at first.
pub(super) async fn wait_complete(nodes: &[Node]) -> Result<(), LabError> {
    let is_complete = async || {
        for node in nodes {
            let info = node.command::<String>(&["CLUSTER", "INFO"]).await.unwrap_or_default();
            let serves_all = info.contains(&format!("cluster_slots_ok:{SLOTS}\r"));
            if !serves_all || !info.contains("cluster_state:ok") {
                return false;
            }
        }
        true
    };
    Ok(wait::until("the cluster", READY_WITHIN, is_complete).await?)
}

impl Store {
    /// Moves the slot of a key to the next node, its keys spread over `within`.
    pub(in super::super) async fn migrate_slot(
        &self,
        key: &str,
        within: Duration,
    ) -> Result<String, LabError> {
        let from = self.owner(key).await?;
        let to = (from + 1) % self.nodes.len();
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        let slot = source.command::<u64>(&["CLUSTER", "KEYSLOT", key]).await?.to_string();
        let source_id: String = source.command(&["CLUSTER", "MYID"]).await?;
        let target_id: String = target.command(&["CLUSTER", "MYID"]).await?;
        let () = target.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source_id]).await?;
        let () = source.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target_id]).await?;
        let keys: u32 = source.command(&["CLUSTER", "COUNTKEYSINSLOT", &slot]).await?;
        let pause = within / (keys + 1);
        let port = target.port().to_string();
        loop {
            tokio::time::sleep(pause).await;
            let keys: Vec<String> = source.command(&["CLUSTER", "GETKEYSINSLOT", &slot, "1"]).await?;
            let Some(key) = keys.first() else { break };
            let moved = source.command(&["MIGRATE", "127.0.0.1", &port, key, "0", "1000"]).await;
            let _: String = moved?;
        }
        for node in [target, source].into_iter().chain(&self.nodes) {
            let () = node.command(&["CLUSTER", "SETSLOT", &slot, "NODE", &target_id]).await?;
        }
        Ok(format!("slot {slot} with {keys} keys, node {from} to node {to}"))
    }
}
