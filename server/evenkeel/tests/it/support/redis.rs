//! Real redis-server processes on free ports of 127.0.0.1: a single server, or a cluster.

use std::{
    collections::BTreeMap,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::free_port;

/// Returns the configuration section `store` for a Redis at `url`. `more` continues the section, such as `", timeout:
/// 2s"`.
pub(crate) fn store_at(url: &str, more: &str) -> String {
    format!("store: {{type: redis, url: '{url}'{more}}}\n")
}

/// One Redis server that stores nothing on disk.
pub(crate) struct Redis {
    child: Child,
    pub(crate) port: u16,
    arguments: Vec<String>,
    dir: tempfile::TempDir,
}

impl Redis {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        Self::start_any(|| arguments.iter().copied().map(str::to_owned).collect())
    }

    /// Starts a server. Another process may take a free port first, so each attempt uses new ports.
    fn start_any(arguments: impl Fn() -> Vec<String>) -> Self {
        for _ in 0..5 {
            let (dir, port, arguments) = (tempfile::tempdir().unwrap(), free_port(), arguments());
            let mut child = spawn(port, &arguments, dir.path());
            if answers(&mut child, port) {
                return Self { child, port, arguments, dir };
            }
        }
        panic!("redis-server did not start");
    }

    /// Returns the configuration section `store` for a sidecar. `more` continues the section, such as `", timeout:
    /// 2s"`.
    pub(crate) fn store(&self, more: &str) -> String {
        store_at(&self.url(), more)
    }

    /// Returns the URL for a sidecar. Its user has only the rights that docs/operations.md documents, and what tests
    /// need.
    pub(crate) fn url(&self) -> String {
        format!("redis://evenkeel:evenkeel@127.0.0.1:{}/", self.port)
    }

    /// Connects as a user with all rights, for the test itself.
    pub(crate) fn connection(&self) -> redis::Connection {
        let url = format!("redis://127.0.0.1:{}/", self.port);
        redis::Client::open(url).unwrap().get_connection().unwrap()
    }

    /// Returns the commands and keys that the ACL denied to the sidecar's Redis user, newest first.
    pub(crate) fn refused(&self) -> Vec<String> {
        let log: Vec<BTreeMap<String, redis::Value>> =
            redis::from_redis_value(self.command(&["ACL", "LOG"])).unwrap();
        log.iter().map(|entry| format!("{:?} {:?}", entry["reason"], entry["object"])).collect()
    }

    /// Sends one command as a user with all rights.
    pub(crate) fn command(&self, words: &[&str]) -> redis::Value {
        let mut cmd = redis::cmd(words[0]);
        cmd.arg(&words[1..]);
        cmd.query(&mut self.connection()).unwrap()
    }

    /// Sends a signal, such as `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        let kill = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(kill.unwrap().success());
    }

    /// Kills the server, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts the server again on the same port, without data.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.port, &self.arguments, self.dir.path());
        assert!(answers(&mut self.child, self.port), "redis-server did not start again");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(port: u16, arguments: &[String], dir: &std::path::Path) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .arg("--dir")
        .arg(dir)
        .args(["--user", "evenkeel"])
        .args(rights())
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is installed: see .ci/setup redis")
}

/// Returns the rights of a sidecar's user from docs/operations.md, and the rights that only tests need: for key
/// prefixes, for Higress's tables, and for clusters.
fn rights() -> Vec<String> {
    let (_, command) =
        include_str!("../../../../../docs/operations.md").split_once("ACL SETUSER evenkeel ").unwrap();
    let (rights, _) = command.split_once("```").unwrap();
    let of_tests = |right: &str| match right {
        ">PASSWORD" => ">evenkeel".to_owned(),
        "~ek2:*" => "~*ek2:*".to_owned(),
        other => other.to_owned(),
    };
    let more = ["~higress:global_least_request_table:*", "+cluster|slots", "+asking", "+role"];
    rights.split_whitespace().map(of_tests).chain(more.map(str::to_owned)).collect()
}

fn answers(child: &mut Child, port: u16) -> bool {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        let pong = client.get_connection().and_then(|mut c| redis::cmd("PING").query::<String>(&mut c));
        if pong.is_ok() {
            return true;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    false
}

/// A cluster of three masters.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Redis>,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(more: &[&str]) -> Self {
        let arguments = || {
            let port = free_port().to_string();
            let arguments = ["--cluster-enabled", "yes", "--cluster-port", &port];
            arguments.iter().chain(more).map(|argument| (*argument).to_owned()).collect()
        };
        let nodes: Vec<Redis> = (0..3).map(|_| Redis::start_any(arguments)).collect();
        let addresses: Vec<String> = nodes.iter().map(|n| format!("127.0.0.1:{}", n.port)).collect();
        let made = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(&addresses)
            .arg("--cluster-yes")
            .output()
            .expect("redis-cli is installed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
        let deadline = Instant::now() + Duration::from_secs(20);
        for node in &nodes {
            let ready = || {
                let info: String = redis::cmd("CLUSTER").arg("INFO").query(&mut node.connection()).unwrap();
                info.contains("cluster_state:ok")
            };
            while !ready() {
                assert!(Instant::now() < deadline, "the cluster did not become ready");
                std::thread::park_timeout(Duration::from_millis(20));
            }
        }
        Self { nodes }
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Redis::url).collect()
    }

    /// Returns the configuration section `store` for a sidecar. `more` continues the section.
    pub(crate) fn store(&self, more: &str) -> String {
        let urls: Vec<String> = self.urls().iter().map(|url| format!("'{url}'")).collect();
        format!("store: {{type: redis, cluster: true, urls: [{}]{more}}}\n", urls.join(", "))
    }

    /// Returns the index of the node that has the slot of a key.
    pub(crate) fn node_of(&self, key: &str) -> usize {
        let asked = &self.nodes[0];
        let slot: u16 = redis::from_redis_value(asked.command(&["CLUSTER", "KEYSLOT", key])).unwrap();
        let rows: Vec<redis::Value> = redis::from_redis_value(asked.command(&["CLUSTER", "SLOTS"])).unwrap();
        let port_of = |row: redis::Value| {
            let (first, last, primary): (u16, u16, Vec<redis::Value>) = redis::from_redis_value(row).ok()?;
            let port: u16 = redis::from_redis_value(primary.into_iter().nth(1)?).ok()?;
            (first..=last).contains(&slot).then_some(port)
        };
        let port = rows.into_iter().find_map(port_of).unwrap();
        self.nodes.iter().position(|node| node.port == port).unwrap()
    }
}
