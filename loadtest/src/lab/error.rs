//! Errors of a lab.

use std::{path::PathBuf, time::Duration};

use crate::wait::WaitError;

#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A program or module was not found.
    #[error("{what} not found; {hint} (looked in {})", .looked.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "))]
    Missing {
        what: &'static str,
        /// How to install the program or module, or how to set its path.
        hint: &'static str,
        looked: Vec<PathBuf>,
    },
    /// A process could not be started or a file could not be accessed.
    #[error("{what}")]
    Io {
        /// The failed action, such as `writing <path>`.
        what: String,
        source: std::io::Error,
    },
    /// A process ended before it was ready.
    #[error("{name} ended with {status} before it was ready; its log ends with:\n{log_tail}")]
    Exited { name: String, status: String, log_tail: String },
    /// A process was not ready in time.
    #[error("{name} was not ready within {within:?}; its log ends with:\n{log_tail}")]
    NotReady { name: String, within: Duration, log_tail: String },
    #[error(transparent)]
    Wait(#[from] WaitError),
    #[error("{name} is not running")]
    NotRunning { name: String },
    #[error("redis: {what}")]
    Redis {
        /// The failed command or action.
        what: &'static str,
        source: ::redis::RedisError,
    },
    /// A process sent no response, or an unexpected response.
    #[error("{what}")]
    Response { what: String },
    /// The configuration of the lab or the benchmark cannot be built.
    #[error("{0}")]
    Invalid(&'static str),
}

impl LabError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        |source| Self::Io { what: what.into(), source }
    }
}
