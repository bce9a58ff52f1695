//! The balancing policies that a lab's gateways offer.

use serde::{Deserialize, Serialize};

/// How the host of a request is chosen. Each Envoy has one listener per policy.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Policy {
    /// Envoy's `ROUND_ROBIN`.
    EnvoyRoundRobin,
    /// Envoy's `RANDOM`.
    EnvoyRandom,
    /// Envoy's `LEAST_REQUEST`: of two random hosts, the host with fewer requests from this Envoy.
    EnvoyLeastRequest,
    /// The plugin asks its sidecar for the host.
    Evenkeel,
    /// The load generator itself chooses the host, from one table of all requests in flight.
    Ideal,
}

impl Policy {
    /// All policies in the order in which reports list them.
    pub const ALL: [Self; 5] =
        [Self::EnvoyRoundRobin, Self::EnvoyRandom, Self::EnvoyLeastRequest, Self::Evenkeel, Self::Ideal];

    /// Returns the name used in reports, listeners and arguments.
    pub fn name(self) -> &'static str {
        match self {
            Self::EnvoyLeastRequest => "envoy_least_request",
            Self::EnvoyRoundRobin => "envoy_round_robin",
            Self::EnvoyRandom => "envoy_random",
            Self::Evenkeel => "evenkeel",
            Self::Ideal => "ideal",
        }
    }
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}
