//! Which causes of an outage are logged. A server that is lost is tried again and again, and the cause of the last failure
//! is often another than that of the first: a connection was cut, and the new one finds an expired certificate.

/// Maximum number of causes that are logged in one outage: some for a server that restarts, and some for its network.
const LOGGED_MAX: usize = 8;

/// The causes that were logged in one outage.
#[derive(Debug, Default)]
pub(super) struct Causes(Vec<String>);

impl Causes {
    /// Returns whether the sidecar logs a cause: each once, whatever its numbers are, such as seconds or ports.
    pub(super) fn is_new(&mut self, cause: &str) -> bool {
        let kind: String = cause.chars().filter(|c| !c.is_ascii_digit()).collect();
        if self.0.len() >= LOGGED_MAX || self.0.contains(&kind) {
            return false;
        }
        self.0.push(kind);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_logged_once_and_not_many_of_them() {
        let mut causes = Causes::default();
        assert!(causes.is_new("expired 10 seconds ago"));
        assert!(!causes.is_new("expired 11 seconds ago"));
        assert!(causes.is_new("connection refused"));
        assert!(!causes.is_new("expired 12 seconds ago"));
        let more = (0..100).filter(|n| causes.is_new(&"x".repeat(n + 1))).count();
        assert_eq!(more, LOGGED_MAX - 2);
    }
}
