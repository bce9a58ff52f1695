//! Authenticates administrators by their tokens. Only changes need a token.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use evenkeel_domain::{clock::unix_ms, settings::AdminToken};
use evenkeel_proto::v1::{WhoAmIRequest, WhoAmIResponse};
use evenkeel_telemetry::Metrics;
use tokio::sync::watch;
use tracing::warn;

use crate::{Api, Result};

/// The name of an administrator whose token was checked. Only [`Admins::check`] creates this type, so an operation that
/// takes it as a parameter cannot run without a valid token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Administrator(pub(crate) String);

/// The administrators in the last valid configuration.
pub struct Admins {
    tokens: watch::Receiver<Arc<Vec<AdminToken>>>,
    metrics: Arc<Metrics>,
    /// Time when a rejection was last logged, in seconds since the Unix epoch.
    logged_s: AtomicU64,
}

/// Why a call that needs an administrator was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoAdmin {
    #[error(
        "changes are not possible: the configuration names no administrators; add tokens under \
         admin.tokens"
    )]
    NoneConfigured,
    #[error("changes need an administrator's token: authorization: Bearer <token>")]
    NoToken,
    #[error("authorization: this token belongs to no administrator")]
    WrongToken,
}

impl Admins {
    #[must_use]
    pub fn new(tokens: watch::Receiver<Arc<Vec<AdminToken>>>, metrics: Arc<Metrics>) -> Self {
        Self { tokens, metrics, logged_s: AtomicU64::new(0) }
    }

    /// Returns whether the configuration names administrators.
    pub(crate) fn any(&self) -> bool {
        !self.tokens.borrow().is_empty()
    }

    /// Returns the administrator that the `authorization` HTTP header or gRPC metadata identifies. Compares the token
    /// with all administrators' tokens, each in constant time.
    ///
    /// # Errors
    /// If the token is missing or belongs to no administrator.
    pub fn check(&self, authorization: Option<&str>) -> Result<Administrator> {
        let found = self.find(authorization);
        let result = match found {
            Ok(_) => "accepted",
            Err(NoAdmin::NoneConfigured) => "none_configured",
            Err(NoAdmin::NoToken) => "no_token",
            Err(NoAdmin::WrongToken) => "wrong_token",
        };
        self.metrics.admin_calls.with_label_values(&[result]).inc();
        if let Err(error) = &found {
            self.log(*error);
        }
        Ok(found.map(Administrator)?)
    }

    /// Logs at most one rejection per second. The metric counts every rejection.
    fn log(&self, error: NoAdmin) {
        let now = unix_ms() / 1000;
        if self.logged_s.swap(now, Ordering::Relaxed) != now {
            warn!(target: "evenkeel::change_log", %error, "administrative call rejected");
        }
    }

    fn find(&self, authorization: Option<&str>) -> std::result::Result<String, NoAdmin> {
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

impl Api {
    #[allow(clippy::unused_async)] // every operation is async
    pub async fn who_am_i(&self, by: Administrator, _: WhoAmIRequest) -> Result<WhoAmIResponse> {
        Ok(WhoAmIResponse { name: by.0 })
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_config::Config;

    use super::*;
    use crate::Code;

    fn admins(yaml: &str) -> (Admins, watch::Sender<Arc<Vec<AdminToken>>>) {
        let (sender, tokens) = watch::channel(Config::parse(yaml).unwrap().admin);
        (Admins::new(tokens, Metrics::new().unwrap()), sender)
    }

    #[test]
    fn only_a_configured_token_belongs_to_an_administrator() {
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
            assert_eq!(admins.find(shown), expected.map(str::to_owned), "{shown:?}");
        }
        tokens.send_replace(Arc::default());
        assert_eq!(admins.find(Some("Bearer 0123456789abcdef")), Err(NoAdmin::NoneConfigured));
    }

    #[test]
    fn without_tokens_the_error_says_what_to_configure() {
        let error = admins("").0.check(Some("Bearer x")).unwrap_err();
        assert_eq!((error.code, error.field.as_deref()), (Code::PermissionDenied, Some("authorization")));
        assert!(error.message.contains("admin.tokens"), "{error}");
    }
}
