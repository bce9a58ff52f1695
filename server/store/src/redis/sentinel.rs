//! Follows the primary that sentinels name.
//!
//! The sidecar asks every sentinel, and believes the one with the highest configuration epoch: a sentinel that was cut off
//! during a failover still names the old primary, under an older epoch. New connections also check with ROLE that the
//! server is a primary.

use std::sync::Arc;

use futures::future::join_all;
use redis::aio::MultiplexedConnection;
use tracing::{info, warn};

use super::{
    access::{Access, Address},
    causes::Causes,
    node::Shared,
    routes::Routes,
};

/// A sentinel, and the connection over which the sidecar asks it.
struct Sentinel {
    address: Address,
    access: Access,
    connection: Option<MultiplexedConnection>,
    /// Since its last answer; `None` if there was no failure.
    failing: Option<Causes>,
}

/// Asks the sentinels now, when the primary is lost, and at intervals.
pub(super) async fn watch(
    routes: Arc<Routes>,
    master_name: String,
    sentinels: Vec<(Address, Access)>,
    shared: Arc<Shared>,
) {
    let with = |(address, access)| Sentinel { address, access, connection: None, failing: None };
    let mut sentinels: Vec<Sentinel> = sentinels.into_iter().map(with).collect();
    let (mut current, mut warned) = (None, false);
    loop {
        let answers = join_all(sentinels.iter_mut().map(|sentinel| sentinel.ask(&master_name))).await;
        match answers.into_iter().flatten().max_by_key(|(epoch, _)| *epoch) {
            Some((epoch, primary)) => {
                warned = false;
                let newest = (epoch, primary);
                // A sentinel that is behind must not lead back to the old primary.
                if current.as_ref().is_none_or(|(known, address)| epoch >= *known && newest.1 != *address) {
                    info!(primary = %newest.1, epoch, "the sentinels name another primary");
                    routes.use_one(newest.1.clone());
                    current = Some(newest);
                }
            }
            None if !warned => {
                warned = true;
                warn!("no sentinel names the primary: the sidecar keeps the last one, and asks again");
            }
            None => {}
        }
        shared.wait_to_look(warned).await;
    }
}

impl Sentinel {
    /// Returns the primary that this sentinel names, with the epoch of its configuration. Logs why it names none.
    async fn ask(&mut self, master_name: &str) -> Option<(u64, Address)> {
        match self.try_ask(master_name).await {
            Ok(answer) => {
                self.failing = None;
                Some(answer)
            }
            Err(error) => {
                if self.failing.get_or_insert_default().is_new(&error) {
                    warn!(error, "a sentinel does not name the primary: the sidecar relies on the others");
                }
                None
            }
        }
    }

    async fn try_ask(&mut self, master_name: &str) -> Result<(u64, Address), String> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.access.connect(&self.address).await.map_err(|error| error.to_string())?,
        };
        let answer = ask(connection.clone(), master_name).await;
        if answer.is_ok() {
            self.connection = Some(connection);
        }
        answer.map_err(|error| format!("{}: {error}", self.address))
    }
}

async fn ask(mut connection: MultiplexedConnection, master_name: &str) -> Result<(u64, Address), String> {
    let describe = |error: redis::RedisError| error.to_string();
    let mut epoch_of = redis::cmd("SENTINEL");
    epoch_of.arg("MASTER").arg(master_name);
    let fields: Vec<String> = epoch_of.query_async(&mut connection).await.map_err(describe)?;
    let epoch =
        fields.chunks_exact(2).find(|pair| pair[0] == "config-epoch").and_then(|pair| pair[1].parse().ok());
    // During a failover, this command names the new primary before the one above does.
    let mut address_of = redis::cmd("SENTINEL");
    address_of.arg("GET-MASTER-ADDR-BY-NAME").arg(master_name);
    let found: Option<(String, u16)> = address_of.query_async(&mut connection).await.map_err(describe)?;
    let (host, port) = found.ok_or_else(|| format!("knows no master {master_name:?}"))?;
    let epoch = epoch.ok_or_else(|| "names no config-epoch".to_owned())?;
    Ok((epoch, Address { host: host.into(), port }))
}
