//! A primary, a replica, and three sentinels that watch them, as real processes.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::{eventually, free_port, redis::Redis};

/// The name under which the sentinels watch the primary.
pub(crate) const NAME: &str = "evenkeel";

pub(crate) struct Watched {
    pub(crate) nodes: [Redis; 2],
    sentinels: Vec<(Child, u16)>,
    _directory: tempfile::TempDir,
}

impl Watched {
    pub(crate) async fn start() -> Self {
        let primary = Redis::start();
        let of = primary.port.to_string();
        let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &of]);
        let directory = tempfile::tempdir().unwrap();
        let sentinels = (0..3).map(|i| spawn(directory.path(), i, primary.port, "")).collect();
        let watched = Self { nodes: [primary, replica], sentinels, _directory: directory };
        eventually(Duration::from_secs(30), "the sentinels know each other and the replica", || async {
            for (_, port) in &watched.sentinels {
                let Some(fields) = master(*port) else { return Err("no answer".to_owned()) };
                let field =
                    |name: &str| fields.chunks(2).find(|pair| pair[0] == name).map(|pair| pair[1].clone());
                let known = (field("num-other-sentinels"), field("num-slaves"), field("flags"));
                if known != (Some("2".into()), Some("1".into()), Some("master".into())) {
                    return Err(format!("{known:?}"));
                }
            }
            Ok(())
        })
        .await;
        watched
    }

    /// Returns the configuration section `store` for a sidecar. `more` continues the section.
    pub(crate) fn store(&self, password_file: &str, more: &str) -> String {
        let urls: Vec<String> =
            self.sentinels.iter().map(|(_, port)| format!("'redis://127.0.0.1:{port}'")).collect();
        format!(
            "store: {{type: sentinel, sentinels: [{}], master_name: {NAME}, user: evenkeel, \
             password_file: '{password_file}'{more}}}\n",
            urls.join(", ")
        )
    }

    /// Starts a failover without a fault.
    pub(crate) fn fail_over(&self) {
        command(self.sentinels[0].1, &["SENTINEL", "FAILOVER", NAME]).unwrap();
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        for (child, _) in &mut self.sentinels {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts a sentinel. `more` are further lines of its configuration.
pub(crate) fn spawn(directory: &std::path::Path, index: usize, primary: u16, more: &str) -> (Child, u16) {
    let (port, file) = (free_port(), directory.join(format!("sentinel{index}.conf")));
    let text = format!(
        "port {port}\nbind 127.0.0.1\ndir {}\n{more}\nsentinel monitor {NAME} 127.0.0.1 {primary} 2\n\
         sentinel down-after-milliseconds {NAME} 700\nsentinel failover-timeout {NAME} 4000\n",
        directory.display()
    );
    std::fs::write(&file, text).unwrap();
    let mut server = Command::new("redis-server");
    let child =
        server.arg(&file).arg("--sentinel").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    (child, port)
}

fn command(port: u16, words: &[&str]) -> redis::RedisResult<redis::Value> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/"))?;
    let mut connection = client.get_connection_with_timeout(Duration::from_secs(1))?;
    redis::cmd(words[0]).arg(&words[1..]).query(&mut connection)
}

/// Returns what a sentinel knows about the primary.
fn master(port: u16) -> Option<Vec<String>> {
    redis::from_redis_value(command(port, &["SENTINEL", "MASTER", NAME]).ok()?).ok()
}
