//! The Evenkeel sidecar: global least-request routing for AI gateways.
//!
//! Dependencies point one way: `transport` → `balancer` → `store` → Redis or memory. `domain` holds the words
//! all of them use, and no I/O types. Wire types stop in `transport`, Redis types in `store::redis`.
//!
//! | module | room for |
//! |---|---|
//! | [`admission`] | a request's way: limits and endpoint, settled in both, written into the ledger |
//! | [`app`] | wiring, task tracking, ordered drain |
//! | [`clock`] | the time of day, where this machine's own will do |
//! | [`config`] | raw file shapes → validated `Config`, every fault collected |
//! | `follow` | what administrators set, as every sidecar keeps up with it |
//! | [`domain`] | pools, endpoints, holders, leases, the rule for choosing |
//! | [`store`] | the table of requests in flight: trait, memory, Redis, and what to do when Redis is away |
//! | [`balancer`] | Admit, Settle, KeepAlive; pool directory, discovery (DNS, Kubernetes), the sweep |
//! | [`ledger`] | usage: recorded, written in batches, asked about |
//! | [`rls`] | Envoy's rate limit service: files of limits, descriptors, answers |
//! | [`limiter`] | limits and quotas: what applies to a request, and their administration |
//! | [`transport`] | gRPC and HTTP |
//! | [`telemetry`] | metrics and logs |

pub mod activity;
pub mod admission;
pub mod app;
pub mod audit;
pub mod balancer;
pub mod clock;
pub mod config;
pub mod domain;
mod follow;
pub mod ledger;
pub mod limiter;
pub mod rls;
pub mod store;
pub mod telemetry;
pub mod transport;
