//! The pool as the mock hosts, the sidecars' table and the sidecars' metrics see it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use evenkeel_loadtest::lab::{CLUSTER, Lab};
use evenkeel_proto::v1::{self as pb, inspect_client::InspectClient};
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use super::{admin::connect, wait::within};

/// Returns the number of requests in flight per host, as the hosts count them.
pub(crate) fn by_hosts(lab: &Lab) -> BTreeMap<String, u64> {
    lab.hosts().iter().map(ToString::to_string).zip(lab.mock_in_flight()).collect()
}

/// Returns the number of requests in flight per host in the shared table, as one sidecar reads it.
pub(crate) async fn by_table(lab: &Lab, sidecar: usize) -> Result<BTreeMap<String, u64>, String> {
    let request = pb::GetPoolRequest { cluster: CLUSTER.into(), ..Default::default() };
    let pool = inspect(lab, sidecar).await?.get_pool(request).await.map_err(|e| e.to_string())?.into_inner();
    if !pool.current {
        return Err("the sidecar does not read the shared table".into());
    }
    Ok(pool.endpoints.into_iter().map(|endpoint| (endpoint.address, endpoint.in_flight)).collect())
}

/// Returns the number of leases of each holder, as one sidecar reads them.
pub(crate) async fn holders(lab: &Lab, sidecar: usize) -> Result<BTreeMap<String, u64>, String> {
    let request = pb::ListHoldersRequest { cluster: CLUSTER.into(), ..Default::default() };
    let response = inspect(lab, sidecar).await?.list_holders(request).await.map_err(|e| e.to_string())?;
    Ok(response.into_inner().holders.into_iter().map(|holder| (holder.holder, holder.leases)).collect())
}

async fn inspect(lab: &Lab, sidecar: usize) -> Result<InspectClient<Channel>, String> {
    Ok(InspectClient::new(connect(lab, sidecar).await?))
}

/// Waits until the table equals the hosts' own counts. Returns the duration of the wait.
pub(crate) async fn wait_exact(lab: &Lab, sidecar: usize, limit: Duration) -> Duration {
    within(limit, "the table equals the hosts' own counts", || async {
        let (hosts, table) = (by_hosts(lab), by_table(lab, sidecar).await?);
        if table == hosts { Ok(()) } else { Err(format!("table {table:?}, hosts {hosts:?}")) }
    })
    .await
}

/// Reads a series of one sidecar's metrics.
pub(crate) async fn metric(lab: &Lab, sidecar: usize, name: &str) -> f64 {
    let text = lab.sidecars()[sidecar].metrics().await.unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no metric {name} in\n{text}")).parse().unwrap()
}

/// Reads the table in Redis continuously, and checks that no count is negative.
pub(crate) struct CountWatch {
    stop: Arc<AtomicBool>,
    task: JoinHandle<(u64, Option<String>)>,
}

impl CountWatch {
    pub(crate) async fn start(lab: &mut Lab) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (url, stopped) = (lab.redis().url(), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            let client = redis::Client::open(url).unwrap();
            let (mut reads, mut connection) = (0, None);
            while !stopped.load(Ordering::Relaxed) {
                // Redis may be down for a while.
                if connection.is_none() {
                    connection = client.get_multiplexed_async_connection().await.ok();
                }
                let Some(c) = &mut connection else {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                };
                let key = format!("ek2:{{|{CLUSTER}}}:in-flight");
                let counts = redis::cmd("HGETALL").arg(key).query_async::<BTreeMap<String, String>>(c).await;
                match counts {
                    Ok(counts) => {
                        reads += 1;
                        if counts.values().any(|n| n.starts_with('-')) {
                            return (reads, Some(format!("{counts:?}")));
                        }
                    }
                    Err(_) => connection = None,
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            (reads, None)
        });
        Self { stop, task }
    }

    pub(crate) async fn assert_never_negative(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (reads, negative) = self.task.await.unwrap();
        assert_eq!(negative, None, "a negative count");
        assert!(reads > 50, "only {reads} reads of the table");
    }
}
