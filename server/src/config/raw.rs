//! The configuration file as written: shapes only, no judgement. docs/configuration.md explains each field.

use std::time::Duration;

use serde::Deserialize;

use super::{
    kubernetes::{RawKubernetes, RawServiceRule},
    limits::raw::{RawAdmin, RawHigressRules, RawLedger, RawLimit, RawModel, RawPrice, RawQuota},
    rate_limit_service::RawRateLimitService,
    traces::RawTraces,
};
use crate::store::resilient::OnStoreFailure;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawConfig {
    pub(super) listen: RawListen,
    #[serde(with = "humantime_serde")]
    pub(super) keep_alive_interval: Option<Duration>,
    #[serde(with = "humantime_serde")]
    pub(super) drain_delay: Option<Duration>,
    pub(super) log: RawLog,
    pub(super) runtime: RawRuntime,
    pub(super) store: RawStore,
    pub(super) kubernetes: Option<RawKubernetes>,
    pub(super) pools: Vec<RawPool>,
    pub(super) unlisted_pools: RawUnlisted,
    pub(super) limits: Vec<RawLimit>,
    pub(super) higress_rules: Vec<RawHigressRules>,
    pub(super) quotas: Vec<RawQuota>,
    pub(super) prices: Vec<RawPrice>,
    pub(super) models: Vec<RawModel>,
    pub(super) limit_headers: Option<Vec<String>>,
    pub(super) quota_admins: Vec<String>,
    pub(super) admin: RawAdmin,
    pub(super) ledger: RawLedger,
    pub(super) rate_limit_service: Option<RawRateLimitService>,
    pub(super) traces: RawTraces,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawListen {
    pub(super) grpc: Option<String>,
    pub(super) grpc_socket: Option<String>,
    pub(super) grpc_socket_mode: Option<String>,
    pub(super) http: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLog {
    pub(super) format: Option<String>,
    pub(super) level: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRuntime {
    pub(super) worker_threads: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawStore {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) url: Option<String>,
    pub(super) urls: Vec<String>,
    pub(super) user: Option<String>,
    pub(super) password_file: Option<String>,
    pub(super) cluster: Option<bool>,
    pub(super) key_prefix: Option<String>,
    #[serde(with = "humantime_serde")]
    pub(super) timeout: Option<Duration>,
    #[serde(with = "humantime_serde")]
    pub(super) connect_timeout: Option<Duration>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPool {
    pub(super) cluster: String,
    pub(super) route: Option<String>,
    pub(super) per_route: bool,
    pub(super) endpoints: Vec<RawEndpoint>,
    pub(super) dns: Option<RawDns>,
    pub(super) kubernetes: Option<RawServiceRule>,
    pub(super) higress_table: bool,
    pub(super) weight: Option<f64>,
    pub(super) cap: Option<u32>,
    pub(super) on_store_failure: Option<OnStoreFailure>,
    #[serde(with = "humantime_serde")]
    pub(super) full_retry_after: Option<Duration>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEndpoint {
    pub(super) address: String,
    #[serde(default)]
    pub(super) weight: Option<f64>,
    #[serde(default)]
    pub(super) cap: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDns {
    pub(super) name: String,
    pub(super) port: u16,
    #[serde(default, with = "humantime_serde")]
    pub(super) refresh: Option<Duration>,
    #[serde(default)]
    pub(super) nameserver: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawUnlisted {
    pub(super) accept: bool,
    pub(super) per_route: bool,
    pub(super) kubernetes: Option<RawServiceRule>,
    pub(super) weight: Option<f64>,
    pub(super) cap: Option<u32>,
    pub(super) on_store_failure: Option<OnStoreFailure>,
    #[serde(with = "humantime_serde")]
    pub(super) full_retry_after: Option<Duration>,
}

impl Default for RawUnlisted {
    fn default() -> Self {
        Self {
            accept: true,
            per_route: false,
            kubernetes: None,
            weight: None,
            cap: None,
            on_store_failure: None,
            full_retry_after: None,
        }
    }
}
