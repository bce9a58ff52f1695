//! State of the stream to the sidecar, and when it changes by time alone.

use crate::host::Host;

/// Interval of the sidecar's pings, until the sidecar states its own.
const PING_INTERVAL_MS: u64 = 2000;

/// A stream counts as dead after this many deadlines without any message, and this time.
const MISSED_MAX: u32 = 8;
const MISSED_MS: u64 = 1000;

/// Delays before the second and later attempts to connect.
const BACKOFF_MS: std::ops::RangeInclusive<u64> = 50..=1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Closed {
        retry_at_ms: u64,
    },
    /// The plugin has sent Hello.
    Opening {
        token: u32,
        until_ms: u64,
    },
    /// The sidecar has answered Hello.
    Ready {
        token: u32,
        since_ms: u64,
    },
    /// The plugin instance ends, and has said goodbye.
    Ending {
        token: u32,
        until_ms: u64,
    },
}

/// The stream that will replace a ready one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Successor {
    /// `None`: not opened yet.
    pub(super) token: Option<u32>,
    /// When to open it, or to stop waiting for Welcome.
    pub(super) due_ms: u64,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) state: State,
    /// Only while the stream is ready and its sidecar shuts down.
    pub(super) successor: Option<Successor>,
    /// True once a request needs the sidecar. The gateway's main thread also runs the plugin, but has no requests.
    pub(super) wanted: bool,
    /// Index of the current cluster in `Config::sidecar_clusters`.
    pub(super) cluster: usize,
    /// Number of failed attempts to connect since a stream was stable.
    pub(super) failures: u32,
    /// Proves to every sidecar that the worker is its holder.
    pub(super) secret: Vec<u8>,
    pub(super) ping_interval_ms: u64,
    /// Time of the sidecar's last message.
    pub(super) heard_ms: u64,
    /// Number of deadlines missed since then.
    pub(super) missed: u32,
}

impl Connection {
    pub(super) fn new() -> Connection {
        Connection {
            state: State::Closed { retry_at_ms: 0 },
            successor: None,
            wanted: false,
            cluster: 0,
            failures: 0,
            secret: Vec::new(),
            ping_interval_ms: PING_INTERVAL_MS,
            heard_ms: 0,
            missed: 0,
        }
    }

    /// Returns the token of the current stream.
    pub(super) fn token(&self) -> Option<u32> {
        match self.state {
            State::Closed { .. } => None,
            State::Opening { token, .. } | State::Ready { token, .. } | State::Ending { token, .. } => {
                Some(token)
            }
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready { .. })
    }

    /// Returns whether the stream can be ready before `deadline_ms`.
    pub(super) fn may_answer_by(&self, deadline_ms: u64) -> bool {
        !matches!(self.state, State::Closed { retry_at_ms } if retry_at_ms >= deadline_ms)
    }

    /// Returns when the state changes at the latest if nothing happens.
    pub(super) fn due_ms(&self) -> u64 {
        let due_ms = match self.state {
            State::Closed { .. } if !self.wanted => u64::MAX,
            State::Closed { retry_at_ms } => retry_at_ms,
            State::Ready { .. } if self.missed >= MISSED_MAX => self.heard_ms + MISSED_MS,
            State::Ready { .. } => self.heard_ms + 2 * self.ping_interval_ms,
            State::Opening { until_ms, .. } | State::Ending { until_ms, .. } => until_ms,
        };
        self.successor.map_or(due_ms, |successor| due_ms.min(successor.due_ms))
    }

    /// Returns whether the next tick opens a stream.
    pub(super) fn must_open(&self, now_ms: u64) -> bool {
        self.wanted && matches!(self.state, State::Closed { retry_at_ms } if now_ms >= retry_at_ms)
    }

    /// Returns whether a ready stream is dead.
    pub(super) fn is_silent(&self, now_ms: u64) -> bool {
        let silent_ms = now_ms.saturating_sub(self.heard_ms);
        silent_ms >= 2 * self.ping_interval_ms || (self.missed >= MISSED_MAX && silent_ms >= MISSED_MS)
    }

    /// Returns the delay before the next attempt: none after the first failure, then doubling, with jitter.
    pub(super) fn delay_ms(&self, host: &dyn Host) -> u64 {
        let Some(doublings) = self.failures.checked_sub(2) else { return 0 };
        let delay_ms = (BACKOFF_MS.start() << doublings.min(10)).min(*BACKOFF_MS.end());
        delay_ms / 2 + host.random() % (delay_ms / 2 + 1)
    }
}
