//! Errors of calls to the store.

/// Why a call to the store failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be reached, or cannot serve calls at present.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// The sidecar did not send the call, because its server is lost.
    #[error("store unavailable: {0}")]
    NotSent(String),
    /// The server could not be reached, or refused the call. It has not executed the call.
    #[error("store unavailable: {0}")]
    Refused(String),
    /// The store did not reply in time. It may still apply the call.
    #[error("store did not answer within {0} ms")]
    Timeout(u64),
    /// Too many calls are waiting for the store.
    #[error("{0} calls already wait for the store")]
    Overloaded(usize),
    /// A script returned an error.
    #[error("script {script}: {detail}")]
    Script {
        script: &'static str,
        /// The error from Redis.
        detail: String,
    },
    /// The store returned a malformed reply.
    #[error("script {script} answered {detail}")]
    Corrupt { script: &'static str, detail: String },
}

impl StoreError {
    /// Whether the store may have applied the call although it failed.
    #[must_use]
    pub fn may_be_applied(&self) -> bool {
        !matches!(self, Self::NotSent(_) | Self::Refused(_) | Self::Overloaded(_))
    }

    /// Whether the failure concerns the server, and not only this call.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::NotSent(_) | Self::Refused(_) | Self::Unavailable(_))
    }

    /// Returns the kind, as a metric label.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unavailable(_) | Self::Refused(_) => "unavailable",
            Self::NotSent(_) => "not_sent",
            Self::Timeout(_) => "timeout",
            Self::Overloaded(_) => "overloaded",
            Self::Script { .. } => "script",
            Self::Corrupt { .. } => "corrupt",
        }
    }
}
