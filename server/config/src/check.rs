//! Collects errors and warnings. Validation continues after an error, so that all errors are reported at once.

use std::{fmt::Display, net::SocketAddr, time::Duration};

use evenkeel_domain::NAME_BYTES_MAX;

/// Collects errors, and warnings about settings that are allowed but probably not intended.
#[derive(Default)]
pub(super) struct Check {
    faults: Vec<String>,
    warnings: Vec<String>,
}

impl Check {
    /// Adds the error `PATH: must be EXPECTED, got GOT`.
    pub(super) fn fault(&mut self, path: &str, expected: &str, got: impl Display) {
        self.faults.push(format!("{path}: must be {expected}, got {got}"));
    }

    /// Adds an error whose text is complete.
    pub(super) fn push(&mut self, fault: String) {
        self.faults.push(fault);
    }

    pub(super) fn required(&mut self, path: &str, expected: &str) {
        self.fault(path, expected, "none");
    }

    pub(super) fn warn(&mut self, path: &str, warning: &str) {
        self.warnings.push(format!("{path}: {warning}"));
    }

    /// Returns the errors and the warnings.
    pub(super) fn into_parts(self) -> (Vec<String>, Vec<String>) {
        (self.faults, self.warnings)
    }

    pub(super) fn within<T: PartialOrd + Display>(
        &mut self,
        path: &str,
        value: T,
        range: std::ops::RangeInclusive<T>,
    ) {
        if !range.contains(&value) {
            self.fault(path, &format!("{}..{}", range.start(), range.end()), value);
        }
    }

    pub(super) fn duration(
        &mut self,
        path: &str,
        value: Option<Duration>,
        default: Duration,
        min: Duration,
        max: Duration,
    ) -> Duration {
        let value = value.unwrap_or(default);
        if value < min || value > max {
            self.fault(path, &format!("{min:?}..{max:?}"), format!("{value:?}"));
        }
        value
    }

    pub(super) fn socket(&mut self, path: &str, value: &str) -> Option<SocketAddr> {
        match value.parse() {
            Ok(address) => Some(address),
            Err(_) => {
                self.fault(path, "an IP address and port such as 127.0.0.1:9190", format!("{value:?}"));
                None
            }
        }
    }

    pub(super) fn name(&mut self, path: &str, value: &str) {
        if value.is_empty() || value.len() > NAME_BYTES_MAX || value.chars().any(char::is_control) {
            self.fault(path, "a name of 1..256 bytes without control characters", format!("{value:?}"));
        }
    }
}
