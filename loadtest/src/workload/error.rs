//! What is wrong with a trace file.

use std::io;

/// First line of a CSV trace.
pub(super) const HEADER: &str = "TIMESTAMP,ContextTokens,GeneratedTokens";
/// Maximum number of tokens in a field. A larger number is reported as an error in the file.
pub(super) const TOKENS_MAX: u32 = 10_000_000;

#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("{path}")]
    Io { path: String, source: io::Error },
    #[error("line 1: expected the header {HEADER:?} or a JSON object, got {got:?}")]
    Header { got: String },
    #[error("line {line}: expected 3 fields, got {got}")]
    Fields {
        /// Line number, starting at 1.
        line: usize,
        got: usize,
    },
    #[error("line {line}, {field}: expected {expected}, got {got:?}")]
    Field {
        /// Line number, starting at 1.
        line: usize,
        /// Name of the column.
        field: &'static str,
        expected: String,
        got: String,
    },
    #[error("the trace has no requests")]
    Empty,
}
