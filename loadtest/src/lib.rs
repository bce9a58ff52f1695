//! The load tester of Evenkeel.
//!
//! It replays a trace of LLM requests through real gateways to mock model servers, under several balancing
//! policies, and shows what each policy did to the time to first token.
//!
//! | module | what it is |
//! |---|---|
//! | [`engine`] | a model server with continuous batching, on virtual time |
//! | [`mock`] | that engine behind HTTP, on the wall clock |
//! | [`lab`] | real Redis, sidecars and Envoys, owned by the test that needs them |

pub mod engine;
pub mod lab;
pub mod mock;
