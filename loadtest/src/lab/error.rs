//! What can go wrong in a lab.

use std::{path::PathBuf, time::Duration};

/// A lab could not be started, or did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A program or module is not where it was looked for.
    #[error("{what} not found; {hint} (looked in {})", .looked.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "))]
    Missing {
        /// What is missing.
        what: &'static str,
        /// How to get it, or how to say where it is.
        hint: &'static str,
        /// Where it was looked for.
        looked: Vec<PathBuf>,
    },
    /// A process could not be started, or a file of it not be written.
    #[error("{what}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A process ended before it was ready.
    #[error("{name} ended with {status} before it was ready; its log ends with:\n{log_tail}")]
    Exited {
        /// Which process.
        name: String,
        /// Its exit status.
        status: String,
        /// Last lines of its log.
        log_tail: String,
    },
    /// A process was not ready in time.
    #[error("{name} was not ready within {within:?}; its log ends with:\n{log_tail}")]
    NotReady {
        /// Which process.
        name: String,
        /// How long it was given.
        within: Duration,
        /// Last lines of its log.
        log_tail: String,
    },
    /// Something waited for did not come.
    #[error("waited {within:?} for {what}")]
    Deadline {
        /// What was waited for.
        what: String,
        /// How long.
        within: Duration,
    },
    /// The process is not running.
    #[error("{name} is not running")]
    NotRunning {
        /// Which process.
        name: String,
    },
    /// A call to Redis failed.
    #[error("redis: {what}")]
    Redis {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: ::redis::RedisError,
    },
    /// An answer could not be understood.
    #[error("{what}")]
    Answer {
        /// What was read.
        what: String,
    },
    /// The lab was described in a way that cannot be built.
    #[error("{0}")]
    Builder(&'static str),
}

impl LabError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        |source| Self::Io { what: what.into(), source }
    }
}
