//! Starts labs, and defines settings that several labs share.

use evenkeel_loadtest::{
    engine::EngineParams,
    lab::{Lab, LabBuilder, LabError},
};
use serde_json::Value;

/// Starts a lab. If a program is not installed, prints this and returns `None`.
pub(crate) async fn start(builder: LabBuilder) -> Option<Lab> {
    found(builder.start().await)
}

/// Returns the value of a result. If a program is not installed, prints this and returns `None`.
///
/// # Panics
/// On any other error, and on a missing program if `EVENKEEL_IT_REQUIRED` is set.
pub(crate) fn found<T>(result: Result<T, LabError>) -> Option<T> {
    match result {
        Ok(found) => Some(found),
        Err(LabError::Missing { what, hint, .. }) if std::env::var_os("EVENKEEL_IT_REQUIRED").is_none() => {
            eprintln!("SKIPPED: {what} not found; {hint}");
            None
        }
        Err(error) => panic!("the test cannot run: {error:?}"),
    }
}

/// Returns an engine whose requests never queue, for tests that count requests rather than measure time. A token takes
/// 10 ms.
pub(crate) fn roomy_engine() -> EngineParams {
    EngineParams {
        slots: 4096,
        base_ms: 10.0,
        per_seq_ms: 0.0,
        per_prefill_token_ms: 0.0,
        ..EngineParams::default()
    }
}

/// Returns an engine with 1 ms per token.
pub(crate) fn fast_engine() -> EngineParams {
    EngineParams { base_ms: 1.0, per_seq_ms: 0.0, per_prefill_token_ms: 0.0, ..EngineParams::default() }
}

/// Configures the plugin to count usage, and to refuse a request if the sidecar does not answer. The long deadline
/// prevents such refusals on a busy machine.
pub(crate) fn exact_plugin(config: &mut Value) {
    config["deadline_ms"] = 10_000.into();
    config["on_error"] = "closed".into();
    config["read_body"] = true.into();
    config["include_usage"] = true.into();
}
