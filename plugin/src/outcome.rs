//! Derives the outcome of a request from its status and Envoy's response flags.

use evenkeel_proto::v1::Outcome;

/// Bits of Envoy's `response.flags` property.
mod flag {
    pub(super) const UPSTREAM_REQUEST_TIMEOUT: u64 = 1 << 2;
    pub(super) const LOCAL_RESET: u64 = 1 << 3;
    pub(super) const UPSTREAM_REMOTE_RESET: u64 = 1 << 4;
    pub(super) const UPSTREAM_CONNECTION_FAILURE: u64 = 1 << 5;
    pub(super) const UPSTREAM_CONNECTION_TERMINATION: u64 = 1 << 6;
    pub(super) const DOWNSTREAM_CONNECTION_TERMINATION: u64 = 1 << 14;
    pub(super) const STREAM_IDLE_TIMEOUT: u64 = 1 << 16;
    pub(super) const DOWNSTREAM_PROTOCOL_ERROR: u64 = 1 << 18;
    pub(super) const MAX_STREAM_DURATION: u64 = 1 << 19;
    pub(super) const DURATION_TIMEOUT: u64 = 1 << 22;
    pub(super) const UPSTREAM_PROTOCOL_ERROR: u64 = 1 << 23;
    pub(super) const DOWNSTREAM_REMOTE_RESET: u64 = 1 << 28;

    pub(super) const ANY_TIMEOUT: u64 =
        UPSTREAM_REQUEST_TIMEOUT | STREAM_IDLE_TIMEOUT | MAX_STREAM_DURATION | DURATION_TIMEOUT;
    pub(super) const ANY_CLIENT: u64 =
        DOWNSTREAM_CONNECTION_TERMINATION | DOWNSTREAM_REMOTE_RESET | DOWNSTREAM_PROTOCOL_ERROR;
    pub(super) const ANY_UPSTREAM: u64 = LOCAL_RESET
        | UPSTREAM_REMOTE_RESET
        | UPSTREAM_CONNECTION_FAILURE
        | UPSTREAM_CONNECTION_TERMINATION
        | UPSTREAM_PROTOCOL_ERROR;
}

/// How the gateway ended a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ending {
    /// Status that the client received; 0 if it received no status.
    pub status: u32,
    /// The `response.flags` property.
    pub flags: u64,
    /// True if the gateway had chosen an upstream host, and therefore sent the request or tried to.
    pub sent: bool,
}

impl Ending {
    /// Returns the outcome for Settle.
    pub fn outcome(self) -> Outcome {
        if !self.sent {
            Outcome::NotSent
        } else if self.flags & flag::ANY_TIMEOUT != 0 {
            Outcome::Timeout
        } else if self.flags & flag::ANY_CLIENT != 0 {
            Outcome::ClientAbort
        } else if self.flags & flag::ANY_UPSTREAM != 0 {
            Outcome::UpstreamReset
        } else {
            match self.status {
                0 => Outcome::ClientAbort,
                1..400 => Outcome::Success,
                400..500 => Outcome::ClientError,
                _ => Outcome::ServerError,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ending_has_its_outcome() {
        let cases = [
            (200, 0, true, Outcome::Success),
            (302, 0, true, Outcome::Success),
            (404, 0, true, Outcome::ClientError),
            (429, 0, true, Outcome::ClientError),
            (500, 0, true, Outcome::ServerError),
            (503, flag::UPSTREAM_CONNECTION_FAILURE, true, Outcome::UpstreamReset),
            (200, flag::UPSTREAM_CONNECTION_TERMINATION, true, Outcome::UpstreamReset),
            (503, flag::UPSTREAM_REMOTE_RESET, true, Outcome::UpstreamReset),
            (502, flag::UPSTREAM_PROTOCOL_ERROR, true, Outcome::UpstreamReset),
            (200, flag::DOWNSTREAM_CONNECTION_TERMINATION, true, Outcome::ClientAbort),
            (0, flag::DOWNSTREAM_CONNECTION_TERMINATION, true, Outcome::ClientAbort),
            (0, flag::DOWNSTREAM_REMOTE_RESET, true, Outcome::ClientAbort),
            (0, 0, true, Outcome::ClientAbort),
            (504, flag::UPSTREAM_REQUEST_TIMEOUT, true, Outcome::Timeout),
            (200, flag::STREAM_IDLE_TIMEOUT, true, Outcome::Timeout),
            (408, flag::DURATION_TIMEOUT, true, Outcome::Timeout),
            (403, 0, false, Outcome::NotSent),
            (503, 1 << 1, false, Outcome::NotSent),
            (0, flag::DOWNSTREAM_CONNECTION_TERMINATION, false, Outcome::NotSent),
        ];
        for (status, flags, sent, expected) in cases {
            let ending = Ending { status, flags, sent };
            assert_eq!(ending.outcome(), expected, "{ending:?}");
        }
    }
}
