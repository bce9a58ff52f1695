//! Finds out which roles a caller has: by its listener, its client certificate and its token.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use evenkeel_domain::settings::{Role, RoleRules, Roles};
use evenkeel_proto::v1::{self as pb, WhoAmIRequest, WhoAmIResponse};
use evenkeel_telemetry::Metrics;
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::warn;

use crate::{Api, ApiError, Result};

/// Time before the answer to a wrong token. Only the caller with the wrong token waits, so nobody can lock out others.
const WRONG_TOKEN_DELAY: Duration = Duration::from_millis(500);
/// Minimum time between two lines of the log about the same address.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum number of addresses whose last line of the log is remembered. Beyond it, all are forgotten.
const ADDRESSES_MAX: usize = 1024;

/// Maximum number of a certificate's names in an error. A certificate may have thousands, and the error is a header.
const NAMES_SHOWN_MAX: usize = 4;

/// What a call shows of its sender.
#[derive(Clone, Copy)]
pub struct Shown<'a> {
    /// Address of the peer. `None`: the peer is on a Unix socket.
    pub address: Option<IpAddr>,
    /// Roles of everybody who can connect to the listener.
    pub listener: Roles,
    /// Names of the verified client certificate. `None`: the client has shown no certificate.
    pub certificate: Option<&'a [String]>,
    /// The `authorization` HTTP header or gRPC metadata.
    pub authorization: Option<&'a str>,
}

/// A caller and its roles. Only [`Access`] creates this type.
#[derive(Clone, Debug)]
pub struct Caller {
    roles: Roles,
    /// Name of the token or certificate; empty if the caller has shown neither.
    name: String,
    address: Option<IpAddr>,
    /// Whether the caller has shown a token that belongs to nobody.
    wrong_token: bool,
}

/// The name of an administrator. Only [`Caller::administrator`] creates this type, so an operation that takes it as a
/// parameter cannot run without the role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Administrator(pub(crate) String);

/// Who has which role, in the last valid configuration.
pub struct Access {
    rules: watch::Receiver<Arc<RoleRules>>,
    metrics: Arc<Metrics>,
    rejections: Mutex<HashMap<Option<IpAddr>, Rejections>>,
}

/// Rejected calls from one address.
struct Rejections {
    logged: Instant,
    /// Number of rejections since then.
    unlogged: u64,
}

/// Why a call was rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rejected {
    #[error(
        "changes are not possible: the configuration names no administrators; add tokens under \
         admin.tokens, or certificates under admin.certificates"
    )]
    NoAdministrators,
    #[error(
        "this call needs the role {0}: send a token (authorization: Bearer <token>), or use a client \
         certificate that {0}.certificates lists"
    )]
    NothingShown(Role),
    #[error("authorization: this token belongs to nobody")]
    WrongToken,
    #[error("this call needs the role {needed}, which the token of {name:?} does not have")]
    TokenLacksRole { needed: Role, name: String },
    #[error(
        "this call needs the role {needed}: {needed}.certificates lists no name of the client \
         certificate ({})",
        list(names)
    )]
    CertificateLacksRole { needed: Role, names: Vec<String> },
}

/// Lists the first names of a certificate.
fn list(names: &[String]) -> String {
    let first = names.iter().take(NAMES_SHOWN_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => "it has none".to_owned(),
        count if count > NAMES_SHOWN_MAX => format!("{first} and {} more", count - NAMES_SHOWN_MAX),
        _ => first,
    }
}

impl Rejected {
    /// Returns the label of the metrics.
    fn reason(&self) -> &'static str {
        match self {
            Self::NoAdministrators => "none_configured",
            Self::NothingShown(_) => "no_token",
            Self::WrongToken => "wrong_token",
            Self::TokenLacksRole { .. } => "token_lacks_role",
            Self::CertificateLacksRole { .. } => "certificate_lacks_role",
        }
    }
}

impl Caller {
    /// Returns the administrator, or `None` if the caller is none.
    #[must_use]
    pub fn administrator(&self) -> Option<Administrator> {
        self.roles.has(Role::Admin).then(|| Administrator(self.name.clone()))
    }
}

impl Access {
    #[must_use]
    pub fn new(rules: watch::Receiver<Arc<RoleRules>>, metrics: Arc<Metrics>) -> Self {
        Self { rules, metrics, rejections: Mutex::default() }
    }

    /// Returns whether the configuration names administrators.
    pub(crate) fn has_administrators(&self) -> bool {
        self.rules.borrow().grants(Role::Admin)
    }

    /// Returns the caller if it has the role. Compares a token with all tokens, each in constant time. The answer to a
    /// wrong token comes later.
    ///
    /// # Errors
    /// If the caller does not have the role.
    pub async fn check(&self, needed: Role, shown: Shown<'_>) -> Result<Caller> {
        let result = self.find(needed, shown);
        let label = result.as_ref().map_or_else(Rejected::reason, |_| "accepted");
        if needed == Role::Admin {
            self.metrics.admin_calls.with_label_values(&[label]).inc();
        }
        match result {
            Ok(caller) => Ok(caller),
            Err(rejected) => Err(self.reject(needed, shown.address, rejected).await),
        }
    }

    /// Counts and logs a rejection, and returns it as an error. If the token is wrong, waits.
    async fn reject(&self, needed: Role, address: Option<IpAddr>, rejected: Rejected) -> ApiError {
        self.metrics.calls_rejected.with_label_values(&[needed.name(), rejected.reason()]).inc();
        self.log(address, &rejected);
        if rejected == Rejected::WrongToken {
            tokio::time::sleep(WRONG_TOKEN_DELAY).await;
        }
        rejected.into()
    }

    /// Logs a rejection, unless one from the same address was logged a moment ago. The metric counts every rejection.
    fn log(&self, address: Option<IpAddr>, rejected: &Rejected) {
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
        let address = name_of(address);
        warn!(target: "evenkeel::access", error = %rejected, address, unlogged, "call rejected");
    }

    fn find(&self, needed: Role, shown: Shown<'_>) -> std::result::Result<Caller, Rejected> {
        let rules = Arc::clone(&self.rules.borrow());
        let mut caller =
            Caller { roles: shown.listener, name: String::new(), address: shown.address, wrong_token: false };
        for name in shown.certificate.unwrap_or_default() {
            for (role, listed) in rules.certificates.iter().filter(|(_, listed)| listed == name) {
                caller.roles = caller.roles.with(*role);
                caller.name.clone_from(listed);
            }
        }
        if let Some(token) = shown.authorization.and_then(bearer) {
            // Compares with every token, each in constant time.
            let found = rules
                .tokens
                .iter()
                .fold(None, |found, listed| if listed.secret.is(token) { Some(listed) } else { found });
            match found {
                Some(listed) => {
                    caller.roles = caller.roles.with(listed.role);
                    caller.name.clone_from(&listed.name);
                }
                None => caller.wrong_token = true,
            }
        }
        if caller.roles.has(needed) {
            if caller.name.is_empty() && needed == Role::Admin {
                caller.name = name_of(shown.address);
            }
            return Ok(caller);
        }
        Err(match shown.certificate {
            _ if needed == Role::Admin && !rules.grants(Role::Admin) => Rejected::NoAdministrators,
            _ if caller.wrong_token => Rejected::WrongToken,
            _ if shown.authorization.and_then(bearer).is_some() => {
                Rejected::TokenLacksRole { needed, name: caller.name }
            }
            Some(names) => Rejected::CertificateLacksRole { needed, names: names.to_vec() },
            None => Rejected::NothingShown(needed),
        })
    }
}

/// Returns the name of a peer that has shown none.
fn name_of(address: Option<IpAddr>) -> String {
    address.map_or_else(|| "unix socket".to_owned(), |address| address.to_string())
}

/// Returns the token of `Bearer <token>`.
fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

impl Api {
    pub async fn who_am_i(&self, caller: Caller, _: WhoAmIRequest) -> Result<WhoAmIResponse> {
        // The listener may grant the role whatever the token is. Only this call would say whether a guess is right.
        if caller.wrong_token {
            return Err(self.access.reject(Role::Reader, caller.address, Rejected::WrongToken).await);
        }
        let role = |role| match role {
            Role::Gateway => pb::Role::Gateway,
            Role::Reader => pb::Role::Reader,
            Role::Admin => pb::Role::Admin,
        };
        let roles = caller.roles.iter().map(|one| role(one).into()).collect();
        Ok(WhoAmIResponse { name: caller.name, roles })
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_config::Config;

    use super::*;
    use crate::Code;

    const TOKENS: &str = "gateway: {tokens: [{name: gw, token: gggggggggggggggg}]}\n\
        reader: {tokens: [{name: grafana, token: rrrrrrrrrrrrrrrr}]}\n\
        admin: {tokens: [{name: ops, token: 0123456789abcdef}, {name: ci, token: fedcba9876543210}]}";
    const NOTHING: Shown<'static> =
        Shown { address: None, listener: Roles::NONE, certificate: None, authorization: None };

    fn access(yaml: &str) -> (Access, watch::Sender<Arc<RoleRules>>) {
        let (sender, rules) = watch::channel(Config::parse(yaml).unwrap().roles);
        (Access::new(rules, Metrics::new().unwrap()), sender)
    }

    fn with_token(token: Option<&str>) -> Shown<'_> {
        Shown { authorization: token, ..NOTHING }
    }

    fn name(found: std::result::Result<Caller, Rejected>) -> std::result::Result<String, Rejected> {
        found.map(|caller| caller.administrator().map_or(caller.name, |admin| admin.0))
    }

    #[test]
    fn an_error_lists_the_first_names_of_a_certificate() {
        let names: Vec<String> = (0..2000).map(|n| format!("n{n}")).collect();
        assert_eq!(list(&[]), "it has none");
        assert_eq!(list(&names[..4]), "n0, n1, n2, n3");
        assert_eq!(list(&names), "n0, n1, n2, n3 and 1996 more");
    }

    #[test]
    fn only_a_configured_token_has_a_role() {
        let (access, rules) = access(TOKENS);
        let nothing = || Err(Rejected::NothingShown(Role::Admin));
        let lacks = |name: &str| Rejected::TokenLacksRole { needed: Role::Admin, name: name.to_owned() };
        let cases = [
            (Some("Bearer 0123456789abcdef"), Ok("ops")),
            (Some("bearer  fedcba9876543210"), Ok("ci")),
            (Some("Bearer rrrrrrrrrrrrrrrr"), Err(lacks("grafana"))),
            (Some("Bearer gggggggggggggggg"), Err(lacks("gw"))),
            (None, nothing()),
            (Some(""), nothing()),
            (Some("0123456789abcdef"), nothing()),
            (Some("Basic 0123456789abcdef"), nothing()),
            (Some("Bearer "), Err(Rejected::WrongToken)),
            (Some("Bearer 0123456789abcde"), Err(Rejected::WrongToken)),
            (Some("Bearer 0123456789abcdef0"), Err(Rejected::WrongToken)),
        ];
        for (shown, expected) in cases {
            let found = name(access.find(Role::Admin, with_token(shown)));
            assert_eq!(found, expected.map(str::to_owned), "{shown:?}");
        }
        rules.send_replace(Arc::default());
        let found = access.find(Role::Admin, with_token(Some("Bearer 0123456789abcdef")));
        assert_eq!(name(found), Err(Rejected::NoAdministrators));
    }

    #[test]
    fn each_role_may_do_what_it_is_for() {
        let (access, _rules) = access(TOKENS);
        let has = |needed, token: &str| {
            let authorization = format!("Bearer {token}");
            access.find(needed, with_token(Some(&authorization))).is_ok()
        };
        for (token, gateway, reader, admin) in [
            ("gggggggggggggggg", true, false, false),
            ("rrrrrrrrrrrrrrrr", false, true, false),
            ("0123456789abcdef", false, true, true),
        ] {
            let found = Role::ALL.map(|role| has(role, token));
            assert_eq!(found, [gateway, reader, admin], "{token}");
        }
    }

    #[tokio::test]
    async fn certificates_have_the_roles_of_their_names() {
        let rules = RoleRules {
            certificates: vec![
                (Role::Gateway, "spiffe://a/gateway".to_owned()),
                (Role::Admin, "ops.example".to_owned()),
            ],
            ..RoleRules::default()
        };
        let (_sender, rules) = watch::channel(Arc::new(rules));
        let access = Access::new(rules, Metrics::new().unwrap());
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let find = |needed, names: &[String]| {
            name(access.find(needed, Shown { certificate: Some(names), ..NOTHING }))
        };
        let both = names(&["spiffe://a/gateway", "ops.example"]);
        assert_eq!(find(Role::Gateway, &both), Ok("ops.example".to_owned()));
        assert_eq!(find(Role::Admin, &both), Ok("ops.example".to_owned()));
        let gateway = names(&["spiffe://a/gateway"]);
        assert_eq!(find(Role::Gateway, &gateway), Ok("spiffe://a/gateway".to_owned()));
        for wrong in [&["spiffe://a/gateway2"][..], &["spiffe://a/gatewa"], &["a.ops.example"], &[]] {
            let names = names(wrong);
            let rejected = Rejected::CertificateLacksRole { needed: Role::Gateway, names: names.clone() };
            assert_eq!(find(Role::Gateway, &names), Err(rejected));
        }
        let error =
            access.check(Role::Admin, Shown { certificate: Some(&gateway), ..NOTHING }).await.unwrap_err();
        assert_eq!(error.code, Code::PermissionDenied);
        assert!(error.message.contains("admin.certificates") && error.message.contains("spiffe://a/gateway"));
    }

    /// A proxy with its own login may send a header that is no token of the sidecar.
    #[test]
    fn a_foreign_token_takes_no_role_of_the_listener() {
        let (access, _rules) = access(TOKENS);
        let listener = Roles::NONE.with(Role::Reader);
        let shown = Shown { listener, ..with_token(Some("Bearer of-the-proxy")) };
        let caller = access.find(Role::Reader, shown).unwrap();
        assert!(caller.wrong_token && caller.administrator().is_none());
        assert_eq!(access.find(Role::Admin, shown).unwrap_err(), Rejected::WrongToken);
        let admin = Shown { listener: Roles::NONE.with(Role::Admin), ..NOTHING };
        assert_eq!(name(access.find(Role::Admin, admin)), Ok("unix socket".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_wrong_token_waits() {
        let (access, _rules) = access(TOKENS);
        let address = Some([192, 0, 2, 1].into());
        for (token, wait) in [
            (Some("Bearer 0123456789abcdef"), Duration::ZERO),
            (None, Duration::ZERO),
            (Some("Bearer rrrrrrrrrrrrrrrr"), Duration::ZERO),
            (Some("Bearer x"), WRONG_TOKEN_DELAY),
            (Some("Bearer 0123456789abcdef"), Duration::ZERO),
        ] {
            let since = tokio::time::Instant::now();
            let _ = access.check(Role::Admin, Shown { address, ..with_token(token) }).await;
            assert_eq!(since.elapsed(), wait, "{token:?}");
        }
        assert_eq!(access.rejections.lock()[&address].unlogged, 2);
    }

    #[tokio::test]
    async fn without_administrators_the_error_says_what_to_configure() {
        let error = access("").0.check(Role::Admin, with_token(Some("Bearer x"))).await.unwrap_err();
        assert_eq!((error.code, error.field.as_deref()), (Code::PermissionDenied, Some("authorization")));
        assert!(error.message.contains("admin.tokens"), "{error}");
    }
}
