//! Validated settings. The crate `evenkeel-config` creates them from the configuration file.

mod kubernetes;
mod ledger;
mod pools;
mod rate_limit_service;
mod roles;
mod secret;
mod store;
mod telemetry;

pub use kubernetes::{
    KubernetesApi, KubernetesOptions, PoolService, SERVICES_MAX, ServicePort, ServiceRule, is_label,
    of_cluster_name,
};
pub use ledger::LedgerOptions;
pub use pools::{PoolRule, PrefixCache, PromptBlocks, SessionAffinity, Source};
pub use rate_limit_service::{LimitFiles, RateLimitHeaders, RateLimitService, RateLimiterOptions};
pub use roles::{Role, RoleRules, RoleToken, Roles};
pub use secret::Secret;
pub use store::{Credentials, RedisOptions, Sentinel, TlsFiles, Topology};

pub use crate::{choice::Policy, policy::OnStoreFailure};
pub use telemetry::{Log, Traces};
