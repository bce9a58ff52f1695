//! Authenticates administrators by their tokens. Only changes need a token.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use evenkeel_domain::settings::AdminToken;
use evenkeel_proto::v1::{WhoAmIRequest, WhoAmIResponse};
use evenkeel_telemetry::Metrics;
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::warn;

use crate::{Api, Result};

/// Time before the answer to a wrong token. Only the caller with the wrong token waits, so nobody can lock out others.
const WRONG_TOKEN_DELAY: Duration = Duration::from_millis(500);
/// Minimum time between two lines of the log about the same address.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum number of addresses whose last line of the log is remembered. Beyond it, all are forgotten.
const ADDRESSES_MAX: usize = 1024;

/// The name of an administrator whose token was checked. Only [`Admins::check`] creates this type, so an operation that
/// takes it as a parameter cannot run without a valid token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Administrator(pub(crate) String);

/// The administrators in the last valid configuration.
pub struct Admins {
    tokens: watch::Receiver<Arc<Vec<AdminToken>>>,
    metrics: Arc<Metrics>,
    rejections: Mutex<HashMap<Option<IpAddr>, Rejections>>,
}

/// Rejected calls from one address.
struct Rejections {
    logged: Instant,
    /// Number of rejections since then.
    unlogged: u64,
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
        Self { tokens, metrics, rejections: Mutex::default() }
    }

    /// Returns whether the configuration names administrators.
    pub(crate) fn any(&self) -> bool {
        !self.tokens.borrow().is_empty()
    }

    /// Returns the administrator that the `authorization` HTTP header or gRPC metadata identifies. Compares the token
    /// with all administrators' tokens, each in constant time. The answer to a wrong token comes later. `address` is that
    /// of the caller; a caller on a Unix socket has none.
    ///
    /// # Errors
    /// If the token is missing or belongs to no administrator.
    pub async fn check(&self, authorization: Option<&str>, address: Option<IpAddr>) -> Result<Administrator> {
        let found = self.find(authorization);
        let result = match found {
            Ok(_) => "accepted",
            Err(NoAdmin::NoneConfigured) => "none_configured",
            Err(NoAdmin::NoToken) => "no_token",
            Err(NoAdmin::WrongToken) => "wrong_token",
        };
        self.metrics.admin_calls.with_label_values(&[result]).inc();
        if let Err(error) = &found {
            self.log(*error, address);
            if *error == NoAdmin::WrongToken {
                tokio::time::sleep(WRONG_TOKEN_DELAY).await;
            }
        }
        Ok(found.map(Administrator)?)
    }

    /// Logs a rejection, unless one from the same address was logged a moment ago. The metric counts every rejection.
    fn log(&self, error: NoAdmin, address: Option<IpAddr>) {
        let mut rejections = self.rejections.lock();
        let unlogged = match rejections.get_mut(&address) {
            Some(known) if known.logged.elapsed() < LOG_INTERVAL => {
                known.unlogged += 1;
                return;
            }
            known => known.map_or(0, |known| known.unlogged),
        };
        if rejections.len() >= ADDRESSES_MAX {
            rejections.clear();
        }
        rejections.insert(address, Rejections { logged: Instant::now(), unlogged: 0 });
        drop(rejections);
        let address = address.map_or_else(|| "a Unix socket".to_owned(), |address| address.to_string());
        warn!(target: "evenkeel::change_log", %error, address, unlogged, "administrative call rejected");
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

    #[tokio::test(start_paused = true)]
    async fn only_a_wrong_token_waits() {
        let (admins, _tokens) = admins("admin: {tokens: [{name: ops, token: 0123456789abcdef}]}");
        let address = Some([192, 0, 2, 1].into());
        for (token, wait) in [
            (Some("Bearer 0123456789abcdef"), Duration::ZERO),
            (None, Duration::ZERO),
            (Some("Bearer x"), WRONG_TOKEN_DELAY),
            (Some("Bearer 0123456789abcdef"), Duration::ZERO),
        ] {
            let since = tokio::time::Instant::now();
            let _ = admins.check(token, address).await;
            assert_eq!(since.elapsed(), wait, "{token:?}");
        }
        assert_eq!(admins.rejections.lock()[&address].unlogged, 1);
    }

    #[tokio::test]
    async fn without_tokens_the_error_says_what_to_configure() {
        let error = admins("").0.check(Some("Bearer x"), None).await.unwrap_err();
        assert_eq!((error.code, error.field.as_deref()), (Code::PermissionDenied, Some("authorization")));
        assert!(error.message.contains("admin.tokens"), "{error}");
    }
}
