//! The load tester of Evenkeel.
//!
//! It replays a trace of LLM requests through real gateways to mock model servers, under several balancing
//! policies, and shows what each policy did to the time to first token.
//!
//! | module | what it is |
//! |---|---|
//! | [`workload`] | the trace: read from CSV, sliced, or made up with the same statistics |
//! | [`engine`] | a model server with continuous batching, on virtual time |
//! | [`mock`] | that engine behind HTTP, on the wall clock |
//! | [`simulate`] | that engine under policies as pure functions |
//! | [`lab`] | real Redis, sidecars and Envoys, owned by the test that needs them |
//! | [`replay`] | the open-loop generator |
//! | [`figures`] | percentiles |

pub mod bench;
pub mod compare;
pub mod cpu;
pub mod demo;
pub mod engine;
pub mod figures;
pub mod lab;
pub mod live;
pub mod mock;
pub mod replay;
pub mod report;
pub mod simulate;
pub mod workload;
