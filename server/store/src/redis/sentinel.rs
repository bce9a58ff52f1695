//! Follows the primary that sentinels name.
//!
//! The sidecar asks every sentinel, and believes the one with the highest configuration epoch: a sentinel that was cut off
//! during a failover still names the old primary, under an older epoch. New connections also check with ROLE that the
//! server is a primary.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use super::{
    access::{Access, Address},
    causes::Causes,
    node::Shared,
    routes::Routes,
};

/// How long the sidecar waits for the other sentinels once one has answered. A sentinel often fails together with the
/// primary, on the same host, and must not delay the failover.
const PATIENCE: Duration = Duration::from_millis(500);

/// The primary that a sentinel names, with the epoch of its configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    epoch: u64,
    primary: Address,
}

/// A sentinel, and the connection over which the sidecar asks it.
struct Sentinel {
    address: Address,
    access: Access,
    connection: Option<MultiplexedConnection>,
    /// Since its last answer; `None` if there was no failure.
    failing: Option<Causes>,
    /// Whether a question waits for its answer.
    is_asked: bool,
}

/// Asks the sentinels now, when the primary is lost, and at intervals.
pub(super) async fn watch(
    routes: Arc<Routes>,
    master_name: String,
    sentinels: Vec<(Address, Access)>,
    shared: Arc<Shared>,
) {
    let with =
        |(address, access)| Sentinel { address, access, connection: None, failing: None, is_asked: false };
    let mut sentinels: Vec<Sentinel> = sentinels.into_iter().map(with).collect();
    let (mut current, mut warned): (Option<Named>, _) = (None, false);
    loop {
        let answers = ask_all(&mut sentinels, &master_name).await;
        if answers.is_empty() && !warned {
            warn!("no sentinel names the primary: the sidecar keeps the last one, and asks again");
        }
        warned = answers.is_empty();
        let majority = sentinels.len() / 2 + 1;
        let behind = shared.is_any_lost().then_some(majority);
        if let Some(newest) = newest(current.as_ref(), &answers, behind) {
            let Named { epoch, primary } = &newest;
            if current.as_ref().is_none_or(|current| current.primary != *primary) {
                info!(%primary, epoch, "the sentinels name another primary");
                routes.use_one(primary.clone());
            }
            current = Some(newest);
        }
        shared.wait_to_look(warned).await;
    }
}

/// Returns the answer to believe if it differs from what is known.
///
/// `behind`: how many sentinels must agree to be believed although their epoch is lower than the known one; `None` if the
/// known primary serves.
fn newest(known: Option<&Named>, answers: &[Named], behind: Option<usize>) -> Option<Named> {
    let is_known = |answer: &Named| known.is_some_and(|known| known.primary == answer.primary);
    let newest = answers.iter().max_by_key(|answer| (answer.epoch, is_known(answer)))?;
    // A sentinel that is behind must not lead back to the old primary. But sentinels that were set up anew count from 0.
    // Most of them are not behind, because most have voted for each failover.
    let is_behind = known.is_some_and(|known| newest.epoch < known.epoch);
    let agree = answers.iter().filter(|answer| answer.primary == newest.primary).count();
    let is_believed = !is_behind || behind.is_some_and(|needed| agree >= needed);
    (is_believed && known != Some(newest)).then(|| newest.clone())
}

/// Asks all sentinels at once. Once one has answered, the others have some time left.
async fn ask_all(sentinels: &mut [Sentinel], master_name: &str) -> Vec<Named> {
    let mut answers = Vec::with_capacity(sentinels.len());
    let mut asked: FuturesUnordered<_> =
        sentinels.iter_mut().map(|sentinel| sentinel.ask(master_name)).collect();
    let mut deadline = None;
    loop {
        let next = match deadline {
            None => asked.next().await,
            Some(deadline) => timeout_at(deadline, asked.next()).await.unwrap_or(None),
        };
        let Some(answer) = next else { break };
        if let Some(answer) = answer {
            answers.push(answer);
            deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
        }
    }
    drop(asked);
    for sentinel in sentinels.iter_mut().filter(|sentinel| sentinel.is_asked) {
        sentinel.failed(&format!("{}: no answer when others had answered", sentinel.address));
    }
    answers
}

impl Sentinel {
    /// Asks for the primary. Logs why the sentinel names none.
    async fn ask(&mut self, master_name: &str) -> Option<Named> {
        self.is_asked = true;
        let answer = self.try_ask(master_name).await;
        match answer {
            Ok((epoch, primary)) => {
                (self.is_asked, self.failing) = (false, None);
                Some(Named { epoch, primary })
            }
            Err(error) => {
                self.failed(&error);
                None
            }
        }
    }

    fn failed(&mut self, error: &str) {
        self.is_asked = false;
        if self.failing.get_or_insert_default().is_new(error) {
            warn!(error, "a sentinel does not name the primary: the sidecar relies on the others");
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

#[cfg(test)]
mod tests {
    use super::*;

    fn named(epoch: u64, port: u16) -> Named {
        Named { epoch, primary: Address { host: "127.0.0.1".into(), port } }
    }

    #[test]
    fn the_highest_epoch_is_believed() {
        let (old, new) = (named(1, 1), named(2, 2));
        assert_eq!(newest(None, &[], None), None);
        assert_eq!(newest(None, &[new.clone(), old.clone()], None), Some(new.clone()));
        assert_eq!(newest(Some(&old), &[old.clone(), new.clone(), old.clone()], None), Some(new.clone()));
        assert_eq!(newest(Some(&new), &[new.clone(), old.clone()], Some(2)), None);
        // A sentinel that was cut off is the only one that answers.
        assert_eq!(newest(Some(&new), &[old], Some(2)), None);
        // The epoch is remembered although the primary is the same again.
        assert_eq!(newest(Some(&named(1, 1)), &[named(3, 1)], None), Some(named(3, 1)));
        // Under the same epoch, the known primary stays.
        assert_eq!(newest(Some(&new), &[named(2, 2), named(2, 3)], None), None);
    }

    #[test]
    fn a_majority_that_has_forgotten_its_epochs_is_believed_if_the_primary_is_lost() {
        let known = named(7, 1);
        let anew = [named(0, 2), named(0, 2)];
        assert_eq!(newest(Some(&known), &anew, Some(2)), Some(named(0, 2)));
        assert_eq!(newest(Some(&known), &anew, None), None);
        assert_eq!(newest(Some(&known), &[named(0, 2)], Some(2)), None);
        assert_eq!(newest(Some(&known), &[named(0, 2), named(0, 3)], Some(2)), None);
        assert_eq!(newest(Some(&known), &[named(0, 2), named(0, 2), named(7, 1)], Some(2)), None);
    }
}
