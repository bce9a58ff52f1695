//! Who may change things: administrators show a token. Reading needs none.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use evenkeel_domain::{clock::unix_ms, settings::AdminToken};
use evenkeel_telemetry::Metrics;
use tokio::sync::watch;
use tonic::{Code, Status};
use tracing::warn;

/// The administrators of the configuration, as it was last read.
pub struct Admins {
    tokens: watch::Receiver<Arc<Vec<AdminToken>>>,
    metrics: Arc<Metrics>,
    /// The second in which a refusal was last logged.
    logged_s: AtomicU64,
}

/// Why a changing call was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAdmin {
    /// There are none.
    #[error(
        "changes are not possible: the configuration names no administrators; give them tokens under \
         admin.tokens"
    )]
    NoneConfigured,
    /// No token was shown.
    #[error("changes need an administrator's token: authorization: Bearer <token>")]
    NoToken,
    /// It is nobody's.
    #[error("authorization: this token is no administrator's")]
    WrongToken,
}

impl Admins {
    /// With these tokens.
    #[must_use]
    pub fn new(tokens: watch::Receiver<Arc<Vec<AdminToken>>>, metrics: Arc<Metrics>) -> Self {
        Self { tokens, metrics, logged_s: AtomicU64::new(0) }
    }

    /// Whether there are any.
    #[must_use]
    pub fn any(&self) -> bool {
        !self.tokens.borrow().is_empty()
    }

    /// The name of who calls, by the header or metadata `authorization`. All tokens are compared, each in a time that
    /// does not tell how much of it is right.
    ///
    /// # Errors
    /// Where it is no administrator.
    pub fn who(&self, authorization: Option<&str>) -> Result<String, NoAdmin> {
        let who = self.find(authorization);
        let result = match who {
            Ok(_) => "accepted",
            Err(NoAdmin::NoneConfigured) => "none_configured",
            Err(NoAdmin::NoToken) => "no_token",
            Err(NoAdmin::WrongToken) => "wrong_token",
        };
        self.metrics.admin_calls.with_label_values(&[result]).inc();
        if let Err(error) = &who {
            self.log(*error);
        }
        who
    }

    /// At most once a second: the metric has them all.
    fn log(&self, error: NoAdmin) {
        let now = unix_ms() / 1000;
        if self.logged_s.swap(now, Ordering::Relaxed) != now {
            warn!(target: "evenkeel::audit", %error, "a change was refused");
        }
    }

    fn find(&self, authorization: Option<&str>) -> Result<String, NoAdmin> {
        let tokens = Arc::clone(&self.tokens.borrow());
        if tokens.is_empty() {
            return Err(NoAdmin::NoneConfigured);
        }
        let (scheme, token) = authorization.and_then(|text| text.split_once(' ')).ok_or(NoAdmin::NoToken)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(NoAdmin::NoToken);
        }
        let token = token.trim();
        let mut found = None;
        for admin in tokens.iter() {
            if admin.secret.is(token) {
                found = Some(admin.name.clone());
            }
        }
        found.ok_or(NoAdmin::WrongToken)
    }
}

impl From<NoAdmin> for Status {
    fn from(error: NoAdmin) -> Self {
        let code = match error {
            NoAdmin::NoneConfigured => Code::PermissionDenied,
            NoAdmin::NoToken | NoAdmin::WrongToken => Code::Unauthenticated,
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_config::Config;

    use super::*;

    fn admins(yaml: &str) -> (Admins, watch::Sender<Arc<Vec<AdminToken>>>) {
        let (sender, tokens) = watch::channel(Config::parse(yaml).unwrap().admin);
        (Admins::new(tokens, Metrics::new().unwrap()), sender)
    }

    #[test]
    fn only_a_configured_token_is_somebody() {
        let (admins, tokens) = admins(
            "admin: {tokens: [{name: ops, token: 0123456789abcdef}, {name: ci, token: fedcba9876543210}]}",
        );
        let cases = [
            (Some("Bearer 0123456789abcdef"), Ok("ops")),
            (Some("bearer  fedcba9876543210"), Ok("ci")),
            (None, Err(NoAdmin::NoToken)),
            (Some(""), Err(NoAdmin::NoToken)),
            (Some("0123456789abcdef"), Err(NoAdmin::NoToken)),
            (Some("Basic 0123456789abcdef"), Err(NoAdmin::NoToken)),
            (Some("Bearer "), Err(NoAdmin::WrongToken)),
            (Some("Bearer 0123456789abcde"), Err(NoAdmin::WrongToken)),
            (Some("Bearer 0123456789abcdef0"), Err(NoAdmin::WrongToken)),
        ];
        for (shown, expected) in cases {
            assert_eq!(admins.who(shown), expected.map(str::to_owned), "{shown:?}");
        }
        tokens.send_replace(Arc::default());
        assert_eq!(admins.who(Some("Bearer 0123456789abcdef")), Err(NoAdmin::NoneConfigured));
    }

    #[test]
    fn without_tokens_the_error_tells_what_to_configure() {
        let error = admins("").0.who(Some("Bearer x")).unwrap_err();
        let status = Status::from(error);
        assert_eq!(status.code(), Code::PermissionDenied);
        assert!(status.message().contains("admin.tokens"), "{status}");
        assert_eq!(Status::from(NoAdmin::WrongToken).code(), Code::Unauthenticated);
    }
}
