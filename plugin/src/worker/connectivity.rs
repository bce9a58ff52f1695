//! Logs once when the sidecar stops answering and once when it answers again.

use crate::{
    config::{Config, OnError},
    host::{Host, Level},
};

/// Minimum time between two log lines, so that an overloaded sidecar does not fill the log.
const LOG_INTERVAL_MS: u64 = 5000;

/// Whether the sidecar answers, and which of these states was logged last.
#[derive(Debug, Default)]
pub(super) struct Connectivity {
    failing: bool,
    reason: String,
    logged_failing: bool,
    logged_ms: Option<u64>,
}

impl Connectivity {
    /// Records that the sidecar answered.
    pub(super) fn on_answer(&mut self, host: &dyn Host, config: &Config) {
        self.failing = false;
        if self.logged_failing {
            self.log_change(host, config, host.now_ms());
        }
    }

    /// Records that the sidecar did not answer. Stores only the reason of the first failure.
    pub(super) fn on_failure(&mut self, host: &dyn Host, config: &Config, reason: impl FnOnce() -> String) {
        if !self.failing {
            self.failing = true;
            self.reason = reason();
        }
        if !self.logged_failing {
            self.log_change(host, config, host.now_ms());
        }
    }

    /// Logs a change since the last log line, at most once per [`LOG_INTERVAL_MS`].
    pub(super) fn log_change(&mut self, host: &dyn Host, config: &Config, now_ms: u64) {
        let too_soon = self.logged_ms.is_some_and(|logged_ms| now_ms < logged_ms + LOG_INTERVAL_MS);
        if self.failing == self.logged_failing || too_soon {
            return;
        }
        self.logged_failing = self.failing;
        self.logged_ms = Some(now_ms);
        let clusters = &config.sidecar_clusters;
        let consequence = match config.on_error {
            OnError::Open => "requests go on and the gateway chooses their endpoints",
            OnError::Closed => "the plugin refuses requests",
        };
        let reason = &self.reason;
        let line = if self.failing {
            format!("evenkeel: the sidecar does not answer ({clusters:?}: {reason}); {consequence}")
        } else {
            format!("evenkeel: the sidecar answers again ({clusters:?})")
        };
        host.log(Level::Warn, &line);
    }
}
