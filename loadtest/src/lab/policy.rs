//! The balancing policies that a lab's gateways offer.

use serde::{Deserialize, Serialize};

use super::{CLUSTER, WORK_CLUSTER};

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
    /// The plugin asks its sidecar for the host, in a pool with `policy: least_request`.
    EvenkeelLeastRequest,
    /// The plugin asks its sidecar for the host, in a pool with `policy: least_work` and without a prefix index.
    EvenkeelUnread,
    /// The plugin asks its sidecar for the host, in a pool with `policy: least_work`.
    EvenkeelLeastWork,
    /// The load generator itself chooses the host, from one table of all requests in flight.
    Ideal,
    /// The load generator itself chooses the host, by the rule of Higress's `prefix_cache` with a bound on the load
    /// ([`HigressPrefix`](crate::prefixes::HigressPrefix)).
    HigressPrefix,
    /// The load generator itself chooses the host by the rule of `least_work`, from one table of all prompts without a
    /// first token, and with knowledge of the hosts' prefix caches.
    IdealWork,
}

impl Policy {
    /// All policies in the order in which reports list them.
    pub const ALL: [Self; 9] = [
        Self::EnvoyRoundRobin,
        Self::EnvoyRandom,
        Self::EnvoyLeastRequest,
        Self::EvenkeelLeastRequest,
        Self::EvenkeelUnread,
        Self::EvenkeelLeastWork,
        Self::Ideal,
        Self::HigressPrefix,
        Self::IdealWork,
    ];
    /// The policies that choose by the number of requests, or without any knowledge.
    pub const BY_REQUESTS: [Self; 5] = [
        Self::EnvoyRoundRobin,
        Self::EnvoyRandom,
        Self::EnvoyLeastRequest,
        Self::EvenkeelLeastRequest,
        Self::Ideal,
    ];

    /// Returns whether the plugin and a sidecar choose the host.
    pub fn is_evenkeel(self) -> bool {
        matches!(self, Self::EvenkeelLeastRequest | Self::EvenkeelUnread | Self::EvenkeelLeastWork)
    }

    /// Returns whether the load generator chooses the host.
    pub fn is_ideal(self) -> bool {
        matches!(self, Self::Ideal | Self::HigressPrefix | Self::IdealWork)
    }

    /// Returns whether the prompts of the requests decide.
    pub fn is_by_work(self) -> bool {
        matches!(self, Self::EvenkeelUnread | Self::EvenkeelLeastWork | Self::HigressPrefix | Self::IdealWork)
    }

    /// Returns which of these policies is the one that a comparison judges: Evenkeel's, by work if it is there.
    pub fn judged(policies: impl IntoIterator<Item = Self>) -> Option<Self> {
        policies.into_iter().filter(|policy| policy.is_evenkeel()).max()
    }

    /// Returns the ideal of one of Evenkeel's policies.
    #[must_use]
    pub fn ideal(self) -> Self {
        if self.is_by_work() { Self::IdealWork } else { Self::Ideal }
    }

    /// Returns the name of the upstream cluster, which is also that of the sidecars' pool.
    pub fn cluster(self) -> &'static str {
        match self {
            Self::EvenkeelLeastRequest => CLUSTER,
            Self::EvenkeelLeastWork => WORK_CLUSTER,
            other => other.name(),
        }
    }

    /// Returns the lines of the sidecars' pool that make up one of Evenkeel's policies; `None` for a policy without a pool.
    pub fn pool_yaml(self) -> Option<&'static str> {
        match self {
            Self::EvenkeelLeastRequest => Some("policy: least_request\n"),
            Self::EvenkeelUnread => Some("policy: least_work\n"),
            // As large as the caches of `--engine long_context`.
            Self::EvenkeelLeastWork => Some("policy: least_work\nprefix_cache: {tokens: 3000000}\n"),
            _ => None,
        }
    }

    /// Returns the name used in reports, listeners and arguments.
    pub fn name(self) -> &'static str {
        match self {
            Self::EnvoyLeastRequest => "envoy_least_request",
            Self::EnvoyRoundRobin => "envoy_round_robin",
            Self::EnvoyRandom => "envoy_random",
            Self::EvenkeelLeastRequest => "evenkeel_least_request",
            Self::EvenkeelUnread => "evenkeel_unread",
            Self::EvenkeelLeastWork => "evenkeel_least_work",
            Self::Ideal => "ideal",
            Self::HigressPrefix => "higress_prefix",
            Self::IdealWork => "ideal_work",
        }
    }
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}
