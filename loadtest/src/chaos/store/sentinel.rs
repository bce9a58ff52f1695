//! Three sentinels that watch a primary and its replica. Everybody but the run itself reaches the two servers through a
//! proxy, so that a fault of the network cuts a server off from the sidecars, from the sentinels, and from the other
//! server.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{super::proxy::Proxy, Node, Store};
use crate::{
    lab::{LabError, LabError::Response, ports},
    wait,
};

/// The name under which the sentinels watch the primary.
const NAME: &str = "evenkeel";
pub(in super::super) const SENTINELS: usize = 3;
const QUORUM: usize = 2;
/// Shorter than most faults, so that these may end before, while or after the sentinels fail over.
const DOWN_AFTER_MS: u64 = 1000;
/// The sentinels repeat a failed attempt after twice this time.
const FAILOVER_TIMEOUT_MS: u64 = 2000;
/// Intervals of a sentinel that its configuration cannot set, in milliseconds, so that the sentinels agree within seconds.
/// A sentinel makes a primary that has come back a replica after four times `publish-period`. It replaces a connection
/// without answers after `min-link-reconnect-period`, before it takes the server for dead.
const PERIODS: [(&str, &str); 4] = [
    ("info-period", "1000"),
    ("publish-period", "1000"),
    ("tilt-period", "1000"),
    ("min-link-reconnect-period", "200"),
];
/// Longest time for several attempts to fail over on a busy machine.
const AGREE_WITHIN: Duration = Duration::from_secs(30);

/// Each look at the sentinels takes several connections.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The sentinels, and the ports under which they and the sidecars know the servers.
#[derive(Debug)]
pub(in super::super) struct Sentinels {
    pub(in super::super) nodes: Vec<Node>,
    announced: Vec<u16>,
    dir: PathBuf,
}

/// What one sentinel knows about the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
struct View {
    port: u16,
    epoch: u64,
    flags: String,
    replicas: u64,
    others: u64,
}

/// Starts a server for each proxy. The second follows the first.
pub(super) async fn start_servers(
    dir: &Path,
    persistence: &[&str],
    proxies: &[Proxy],
) -> Result<Vec<Node>, LabError> {
    let mut nodes = Vec::new();
    for (index, proxy) in proxies.iter().enumerate() {
        let port = proxy.port().to_string();
        // A replica whose link is stranded finds this out within the timeout.
        let mut args = vec!["--replica-announce-ip", "127.0.0.1", "--replica-announce-port", &port];
        args.extend(["--repl-timeout", "3", "--repl-ping-replica-period", "1"]);
        args.extend(["--repl-diskless-sync-delay", "0"]);
        args.extend(persistence);
        let node = Node::start(&format!("redis-{index}"), dir, &args, None).await?;
        proxy.lead_to(node.port());
        nodes.push(node);
    }
    Ok(nodes)
}

/// What all sentinels say.
pub(in super::super) struct Agreed {
    /// Index of the primary.
    pub(in super::super) primary: usize,
    /// Each failover raises it, also one that leads back to the same server.
    pub(in super::super) epoch: u64,
}

impl Sentinels {
    /// Starts the sentinels of the first server.
    pub(super) async fn start(dir: &Path, proxies: &[Proxy]) -> Result<Self, LabError> {
        let announced: Vec<u16> = proxies.iter().map(Proxy::port).collect();
        let mut nodes = Vec::new();
        for index in 0..SENTINELS {
            let port = ports::free_port()?;
            let file = dir.join(format!("sentinel-{index}.conf"));
            configure(&file, port, announced[0])?;
            nodes.push(Node::sentinel(&format!("sentinel-{index}"), dir, &file, port).await?);
        }
        let sentinels = Self { nodes, announced, dir: dir.to_owned() };
        for node in &sentinels.nodes {
            shorten_periods(node).await?;
        }
        Ok(sentinels)
    }

    /// Returns the configuration section `store` of a sidecar, without the braces.
    pub(in super::super) fn section(&self) -> String {
        let urls: Vec<String> = self.nodes.iter().map(|node| format!("'{}'", node.url())).collect();
        format!("type: sentinel, sentinels: [{}], master_name: {NAME}", urls.join(", "))
    }

    /// Starts a sentinel again, which reads its configuration as it was when it ended.
    pub(in super::super) async fn restart(&mut self, sentinel: usize) -> Result<(), LabError> {
        self.nodes[sentinel].launch().await?;
        shorten_periods(&self.nodes[sentinel]).await
    }

    /// Replaces the configuration of all sentinels, which do not run, by the first one. They watch this server.
    pub(in super::super) fn forget(&self, primary: usize) -> Result<(), LabError> {
        for (index, node) in self.nodes.iter().enumerate() {
            let file = self.dir.join(format!("sentinel-{index}.conf"));
            configure(&file, node.port(), self.announced[primary])?;
        }
        Ok(())
    }

    /// Makes the sentinels fail over although the primary serves.
    pub(in super::super) async fn fail_over(&self) -> Result<(), LabError> {
        self.nodes[0].command(&["SENTINEL", "FAILOVER", NAME]).await
    }

    /// Asks the sentinels that run.
    async fn views(&self) -> Result<Vec<View>, LabError> {
        let mut views = Vec::new();
        for node in self.nodes.iter().filter(|node| node.serves()) {
            let fields: BTreeMap<String, String> = node.command(&["SENTINEL", "MASTER", NAME]).await?;
            let number = |name: &str| fields.get(name).and_then(|text| text.parse().ok()).unwrap_or(0);
            views.push(View {
                port: number("port") as u16,
                epoch: number("config-epoch"),
                flags: fields.get("flags").cloned().unwrap_or_default(),
                replicas: number("num-slaves"),
                others: number("num-other-sentinels"),
            });
        }
        Ok(views)
    }

    /// Returns the server that all sentinels name, and its epoch, if none of them has doubts about it or is about to name another.
    async fn agreed(&self) -> Result<Agreed, String> {
        let views = self.views().await.map_err(|error| error.to_string())?;
        let first = views.first().ok_or("no sentinel runs")?;
        let agrees =
            |view: &View| (view.port, view.epoch) == (first.port, first.epoch) && view.flags == "master";
        let named = self.announced.iter().position(|port| *port == first.port);
        let named = named.filter(|_| views.iter().all(agrees));
        named.map(|primary| Agreed { primary, epoch: first.epoch }).ok_or_else(|| format!("{views:?}"))
    }

    /// Returns whether all sentinels know each other and a replica that follows.
    async fn are_complete(&self) -> Result<bool, LabError> {
        for view in self.views().await? {
            if (view.replicas, view.others) != (1, SENTINELS as u64 - 1) {
                return Ok(false);
            }
        }
        for node in &self.nodes {
            let replicas: Vec<BTreeMap<String, String>> =
                node.command(&["SENTINEL", "REPLICAS", NAME]).await?;
            let follows = |replica: &BTreeMap<String, String>| {
                let is = |field: &str, value: &str| replica.get(field).is_some_and(|found| found == value);
                is("flags", "slave") && is("master-link-status", "ok")
            };
            if !replicas.iter().all(follows) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Writes the first configuration of a sentinel, which it extends with what it learns.
fn configure(file: &Path, port: u16, primary: u16) -> Result<(), LabError> {
    let dir = file.parent().unwrap_or(file).display();
    let text = format!(
        "port {port}\nbind 127.0.0.1\ndir \"{dir}\"\nsentinel monitor {NAME} 127.0.0.1 {primary} {QUORUM}\n\
         sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}\n\
         sentinel failover-timeout {NAME} {FAILOVER_TIMEOUT_MS}\n"
    );
    fs::write(file, text).map_err(LabError::io(format!("writing {}", file.display())))
}

async fn shorten_periods(node: &Node) -> Result<(), LabError> {
    let mut command = redis::cmd("SENTINEL");
    command.arg("DEBUG");
    for (name, value) in PERIODS {
        command.arg(name).arg(value);
    }
    node.query(&command).await
}

impl Store {
    /// Waits until a sentinel has made a server the primary and said so to the others that live.
    pub(in super::super) async fn await_promotion(&self, node: usize) -> Result<(), LabError> {
        let is_primary = async || {
            let role = self.nodes[node].info("replication", "role").await;
            role.is_ok_and(|role| role == "master")
        };
        Ok(wait::until("the sentinels to fail over", AGREE_WITHIN, is_primary).await?)
    }

    /// Waits until the sentinels agree on a primary.
    pub(in super::super) async fn agreed_primary(&self) -> Result<Agreed, LabError> {
        let Some(sentinels) = &self.sentinels else {
            return Ok(Agreed { primary: self.primary, epoch: self.epoch });
        };
        let start = Instant::now();
        loop {
            match sentinels.agreed().await {
                Ok(primary) => return Ok(primary),
                Err(views) if start.elapsed() > AGREE_WITHIN => {
                    return Err(Response { what: format!("the sentinels do not agree: {views}") });
                }
                Err(_) => tokio::time::sleep(POLL_INTERVAL).await,
            }
        }
    }

    /// Returns whether a failover could follow: a replica follows, and every sentinel knows.
    pub(in super::super) async fn is_redundant(&self) -> bool {
        let Some(sentinels) = &self.sentinels else { return true };
        let replica = &self.nodes[1 - self.primary];
        replica.info("replication", "master_link_status").await.is_ok_and(|status| status == "up")
            && sentinels.are_complete().await.unwrap_or(false)
    }
}
