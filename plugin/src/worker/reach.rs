//! Whether the sidecar answers, said in the log once per change.

use crate::{
    config::{Config, OnError},
    host::{Host, Level},
};

/// Least time between two log lines about it: a sidecar at its limit would otherwise fill the log.
const QUIET_MS: u64 = 5000;

/// What is known of the sidecar, and what was said of it.
#[derive(Debug, Default)]
pub(super) struct Reach {
    down: bool,
    why: String,
    said_down: bool,
    said_ms: Option<u64>,
}

impl Reach {
    /// It answered.
    pub(super) fn up(&mut self, host: &dyn Host, config: &Config) {
        self.down = false;
        if self.said_down {
            self.tell(host, config, host.now_ms());
        }
    }

    /// It did not.
    pub(super) fn down(&mut self, host: &dyn Host, config: &Config, why: impl FnOnce() -> String) {
        if !self.down {
            self.down = true;
            self.why = why();
        }
        if !self.said_down {
            self.tell(host, config, host.now_ms());
        }
    }

    /// Says what has changed since it was last said.
    pub(super) fn tell(&mut self, host: &dyn Host, config: &Config, now_ms: u64) {
        let quiet = self.said_ms.is_some_and(|said_ms| now_ms < said_ms + QUIET_MS);
        if self.down == self.said_down || quiet {
            return;
        }
        self.said_down = self.down;
        self.said_ms = Some(now_ms);
        let cluster = &config.sidecar_cluster;
        let meanwhile = match config.on_error {
            OnError::Open => "requests go on, placed by the gateway itself",
            OnError::Closed => "requests are refused",
        };
        let why = &self.why;
        let line = if self.down {
            format!("evenkeel: no answer from the sidecar (cluster {cluster:?}: {why}); {meanwhile}")
        } else {
            format!("evenkeel: the sidecar answers again (cluster {cluster:?})")
        };
        host.log(Level::Warn, &line);
    }
}
