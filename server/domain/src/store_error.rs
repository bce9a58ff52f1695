//! Why a store fails.

/// Why a store could not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, or refuses to serve now.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// It did not answer in time. What was asked may still happen.
    #[error("store did not answer within {0} ms")]
    Timeout(u64),
    /// Too many calls wait for it.
    #[error("{0} calls already wait for the store")]
    Overloaded(usize),
    /// A script refused.
    #[error("script {script}: {detail}")]
    Script {
        /// Which script.
        script: &'static str,
        /// What Redis said.
        detail: String,
    },
    /// It answered what could not be understood.
    #[error("script {script} answered {detail}")]
    Corrupt {
        /// Which script.
        script: &'static str,
        /// The answer, shortened.
        detail: String,
    },
}

impl StoreError {
    /// Its kind as a metric label.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Timeout(_) => "timeout",
            Self::Overloaded(_) => "overloaded",
            Self::Script { .. } => "script",
            Self::Corrupt { .. } => "corrupt",
        }
    }
}
