//! Why a stream ends.

use evenkeel_engine::holders::Rejected;
use evenkeel_telemetry::Metrics;
use prometheus::IntCounter;
use tonic::Status;

use super::rejection;

/// Why a stream ends.
pub(super) enum End {
    Goodbye,
    Lost,
    Rejected(Rejected),
    Invalid(Status),
    Exceeded(&'static str),
    /// A message exceeds a bound, or does not arrive in time.
    Refused(Status),
    Silent,
    Shutdown,
}

impl End {
    pub(super) fn status(&self) -> Result<(), Status> {
        match self {
            Self::Goodbye | Self::Lost | Self::Shutdown => Ok(()),
            Self::Rejected(rejected) => Err(rejection(*rejected)),
            Self::Invalid(status) | Self::Refused(status) => Err(status.clone()),
            Self::Exceeded(what) => Err(Status::resource_exhausted(*what)),
            Self::Silent => {
                Err(Status::deadline_exceeded("the worker sent or read nothing for two intervals of pings"))
            }
        }
    }

    /// Returns whether the worker may still have requests, but no stream.
    pub(super) fn is_loss(&self) -> bool {
        !matches!(self, Self::Goodbye | Self::Rejected(Rejected::Replaced))
    }

    pub(super) fn counter<'m>(&self, metrics: &'m Metrics) -> &'m IntCounter {
        let ended = &metrics.streams.ended;
        match self {
            Self::Goodbye => &ended.goodbye,
            Self::Lost => &ended.lost,
            Self::Rejected(Rejected::Replaced) => &ended.replaced,
            Self::Rejected(Rejected::WrongSecret) => &ended.refused,
            Self::Invalid(_) => &ended.invalid,
            Self::Exceeded(_) | Self::Refused(_) => &ended.exceeded,
            Self::Silent => &ended.silent,
            Self::Shutdown => &ended.shutdown,
        }
    }
}
