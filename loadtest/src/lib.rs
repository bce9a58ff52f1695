//! Evenkeel's load tester.
//!
//! It replays a trace of LLM requests through real gateways to mock model servers, once under each balancing policy,
//! and reports the time to first token under each policy. It also measures the throughput and latency of one sidecar.
//!
//! | module | content |
//! |---|---|
//! | [`workload`] | traces: read from CSV, sliced, scaled, or synthesized |
//! | [`engine`] | a model server with continuous batching, in virtual time |
//! | [`mock`] | the engine behind HTTP, in scaled wall-clock time |
//! | [`lab`] | real Redis, sidecars and Envoys, owned by the run or test that started them |
//! | [`replay`] | the open-loop load generator |
//! | [`prefixes`] | what a balancer knows of prefix caches from its own choices |
//! | [`simulate`] | policies as pure functions over the engine, in virtual time |
//! | [`compare`], [`report`], [`demo`] | runs under all policies, their report, the demonstration's parameters |
//! | [`slo`] | the service level: how soon a request must have its first token |
//! | [`slo_load`] | the highest load at which a policy meets the service level |
//! | [`bench`](mod@bench) | closed-loop benchmarks of one sidecar |
//! | [`live`] | a complete system under continuous traffic |
//! | [`chaos`] | faults in a system under traffic, and checks of what Evenkeel promises |

pub mod bench;
pub mod chaos;
pub mod compare;
pub mod cpu;
pub mod demo;
pub mod engine;
pub mod lab;
pub mod live;
pub mod machine;
pub mod mock;
pub mod pace;
pub mod percentiles;
pub mod prefixes;
pub mod replay;
pub mod report;
pub mod simulate;
pub mod slo;
pub mod slo_load;
pub mod verdict;
pub mod wait;
pub mod workload;
