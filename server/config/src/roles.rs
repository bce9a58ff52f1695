//! The sections `gateway`, `reader` and `admin`: who has which role.

use evenkeel_domain::settings::{Role, RoleRules, RoleToken, Secret};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Files, check::Check};

/// Maximum number of tokens of a role. A call with a token costs one comparison for each.
const TOKENS_MAX: usize = 64;
/// Maximum number of certificate names of a role. A call with a certificate costs one comparison for each.
const CERTIFICATES_MAX: usize = 256;
/// Allowed length of a token, in bytes.
const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 16..=1024;
/// Maximum length of a SPIFFE ID, in bytes.
const NAME_BYTES_MAX: usize = 2048;

/// Who has a role. The sections `gateway` and `reader` have the same fields. A caller has the role if it shows one of the
/// tokens, or a client certificate with one of the names.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRole {
    /// One entry for each caller, with a `name` and either `token` or `token_file`.
    #[schemars(length(max = 64))]
    pub(super) tokens: Vec<RawRoleToken>,
    /// Names of client certificates: URIs such as `spiffe://cluster.local/ns/ai/sa/gateway`, or DNS names. A certificate
    /// has the role if one of its subject alternative names equals a name in this list. Requires `tls.client_ca_file`.
    #[schemars(length(max = 256), inner(length(min = 1, max = 2048)))]
    pub(super) certificates: Vec<String>,
}

/// Who has the role admin, as in the sections `gateway` and `reader`, and whether quotas can be changed through the
/// gateway.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawAdmin {
    /// One entry for each caller, with a `name` and either `token` or `token_file`.
    #[schemars(length(max = 64))]
    pub(super) tokens: Vec<RawRoleToken>,
    /// Names of client certificates, as in the sections `gateway` and `reader`.
    #[schemars(length(max = 256), inner(length(min = 1, max = 2048)))]
    pub(super) certificates: Vec<String>,
    /// Whether consumers in `quota_admins` may change quotas through the gateway's `/quota` paths. The gateway states the
    /// consumer, and the sidecar cannot verify it: every caller with the role gateway can claim to be such a consumer.
    /// Enable it only if nobody except gateways has that role. Without it, these consumers can read quotas there.
    #[schemars(extend("default" = false))]
    pub(super) through_gateway: Option<bool>,
}

impl RawAdmin {
    pub(super) fn into_role(self) -> RawRole {
        RawRole { tokens: self.tokens, certificates: self.certificates }
    }
}

/// A caller that authenticates with a bearer token. Set exactly one of `token` and `token_file`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name"], "minProperties" = 2, "maxProperties" = 2))]
pub(super) struct RawRoleToken {
    /// Name of the caller. The change log shows it. Must be unique in the section.
    #[schemars(length(min = 1, max = 256))]
    pub(super) name: String,
    /// The bearer token. `openssl rand -hex 32` generates one.
    #[schemars(length(min = 16, max = 1024), regex(pattern = "^[!-~]*$"), extend("x-range" = "16..1024 printable ASCII characters, no spaces", "x-default" = "none"))]
    pub(super) token: Option<String>,
    /// A file that contains the token, such as a mounted secret. A relative path is resolved against the configuration
    /// file's directory.
    #[schemars(extend("x-default" = "none"))]
    pub(super) token_file: Option<String>,
}

impl std::fmt::Debug for RawRoleToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawRoleToken").field("name", &self.name).finish_non_exhaustive()
    }
}

pub(super) fn validate(
    check: &mut Check,
    files: &mut Files,
    sections: [(Role, RawRole); 3],
    has_client_ca: bool,
) -> RoleRules {
    let mut rules = RoleRules::default();
    for (role, raw) in sections {
        tokens(check, files, role, raw.tokens, &mut rules.tokens);
        certificates(check, role, raw.certificates, has_client_ca, &mut rules.certificates);
    }
    rules
}

fn tokens(
    check: &mut Check,
    files: &mut Files,
    role: Role,
    raw: Vec<RawRoleToken>,
    tokens: &mut Vec<RoleToken>,
) {
    let section = format!("{role}.tokens");
    if raw.len() > TOKENS_MAX {
        check.fault(&section, "at most 64 tokens", raw.len());
    }
    for (i, raw) in raw.into_iter().enumerate() {
        let path = format!("{section}[{i}]");
        check.name(&format!("{path}.name"), &raw.name);
        if tokens.iter().any(|other| other.role == role && other.name == raw.name) {
            check.fault(&format!("{path}.name"), "named once", format!("{:?} again", raw.name));
        }
        let Some(secret) = secret(check, files, &path, &raw) else { continue };
        let token = RoleToken { role, name: raw.name, secret };
        if tokens.iter().any(|other| other.secret == token.secret) {
            check.fault(&path, "a token that nobody else has", "that of another");
        }
        tokens.push(token);
    }
}

/// Reads a token. Error messages do not contain it.
fn secret(check: &mut Check, files: &mut Files, path: &str, raw: &RawRoleToken) -> Option<Secret> {
    let (text, path) = match (&raw.token, &raw.token_file) {
        (Some(token), None) => (token.clone(), format!("{path}.token")),
        (None, Some(file)) => {
            let path = format!("{path}.token_file");
            (files.read(check, &path, file)?.trim().to_owned(), path)
        }
        (given, _) => {
            let got = if given.is_some() { "both" } else { "neither" };
            check.fault(path, "either token or token_file", got);
            return None;
        }
    };
    if !TOKEN_BYTES.contains(&text.len()) || !text.bytes().all(|b| b.is_ascii_graphic()) {
        let expected =
            "16..1024 printable ASCII characters without blanks, such as `openssl rand -hex 32` makes";
        check.fault(&path, expected, format!("{} bytes", text.len()));
        return None;
    }
    Some(Secret::new(text))
}

fn certificates(
    check: &mut Check,
    role: Role,
    raw: Vec<String>,
    has_client_ca: bool,
    names: &mut Vec<(Role, String)>,
) {
    let section = format!("{role}.certificates");
    if raw.len() > CERTIFICATES_MAX {
        check.fault(&section, "at most 256 names", raw.len());
    }
    if !raw.is_empty() && !has_client_ca {
        check.fault(&section, "absent unless tls.client_ca_file is given", "names");
    }
    for (i, name) in raw.into_iter().enumerate() {
        let path = format!("{section}[{i}]");
        let name = if name.contains("://") { name } else { name.to_ascii_lowercase() };
        if !is_uri(&name) && !is_dns_name(&name) {
            let expected = "a URI such as spiffe://cluster.local/ns/ai/sa/gateway, or a DNS name, without *";
            check.fault(&path, expected, format!("{name:?}"));
        } else if names.iter().any(|(other, listed)| *other == role && *listed == name) {
            check.fault(&path, "named once", format!("{name:?} again"));
        }
        names.push((role, name));
    }
}

/// Returns whether a text is a URI with a host, without wildcards.
fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    let has_host = rest.split('/').next().is_some_and(|host| !host.is_empty());
    is_scheme
        && has_host
        && text.len() <= NAME_BYTES_MAX
        && rest.bytes().all(|b| b.is_ascii_graphic() && b != b'*')
}

fn is_dns_name(text: &str) -> bool {
    let is_label = |label: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        (1..=63).contains(&label.len()) && label.bytes().all(inner)
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, tests::faults};

    #[test]
    fn each_role_has_tokens() {
        let config = Config::parse(
            "gateway: {tokens: [{name: a, token: aaaaaaaaaaaaaaaa}]}\n\
             reader: {tokens: [{name: a, token: bbbbbbbbbbbbbbbb}]}\n\
             admin: {tokens: [{name: ops, token: 0123456789abcdef}]}\n",
        )
        .unwrap();
        let tokens = &config.roles.tokens;
        let roles: Vec<_> = tokens.iter().map(|token| (token.role, &*token.name)).collect();
        assert_eq!(roles, [(Role::Gateway, "a"), (Role::Reader, "a"), (Role::Admin, "ops")]);
        assert!(tokens[2].secret.is("0123456789abcdef") && !tokens[2].secret.is("0123456789abcdeg"));
        assert!(!format!("{config:?}").contains("0123456789abcdef"));
    }

    #[test]
    fn each_fault() {
        let cases = [
            (
                "admin: {tokens: [{name: a, token: hunter2}]}",
                "admin.tokens[0].token: must be 16..1024 printable ASCII characters without blanks, such as `openssl \
                 rand -hex 32` makes, got 7 bytes",
            ),
            (
                "admin: {tokens: [{name: a}]}",
                "admin.tokens[0]: must be either token or token_file, got neither",
            ),
            (
                "reader: {tokens: [{name: a, token_file: /nowhere/at/all}]}",
                "reader.tokens[0].token_file: must be a file that can be read, got \"/nowhere/at/all\": No such file \
                 or directory (os error 2)",
            ),
            (
                "{reader: {tokens: [{name: a, token: aaaaaaaaaaaaaaaa}]}, admin: {tokens: [{name: b, token: \
                 aaaaaaaaaaaaaaaa}]}}",
                "admin.tokens[0]: must be a token that nobody else has, got that of another",
            ),
            (
                "reader: {tokens: [{name: a, token: aaaaaaaaaaaaaaaa}, {name: a, token: bbbbbbbbbbbbbbbb}]}",
                "reader.tokens[1].name: must be named once, got \"a\" again",
            ),
            (
                "gateway: {certificates: [a.example]}",
                "gateway.certificates: must be absent unless tls.client_ca_file is given, got names",
            ),
        ];
        for (yaml, expected) in cases {
            assert_eq!(faults(yaml), [expected], "{yaml}");
        }
    }

    #[test]
    fn certificates_have_exact_names() {
        let names = |raw: &[&str]| {
            let (mut check, mut names) = (Check::default(), Vec::new());
            let raw = raw.iter().map(|name| (*name).to_owned()).collect();
            certificates(&mut check, Role::Gateway, raw, true, &mut names);
            (names.into_iter().map(|(_, name)| name).collect::<Vec<_>>(), check.into_parts().0)
        };
        let (good, none) = names(&["spiffe://Cluster.local/ns/A", "Gateway.Example", "a", "https://a/b?c"]);
        assert_eq!(good, ["spiffe://Cluster.local/ns/A", "gateway.example", "a", "https://a/b?c"]);
        assert!(none.is_empty(), "{none:?}");
        let bad =
            ["", "*", "*.example", "spiffe://a/*", "spiffe://", "://a", "a b", "a..b", "-/x", "spiffe:///a"];
        for name in bad {
            let (_, found) = names(&[name]);
            assert!(
                found[0].starts_with("gateway.certificates[0]: must be a URI such as"),
                "{name}: {found:?}"
            );
        }
        assert_eq!(names(&["a", "A"]).1, ["gateway.certificates[1]: must be named once, got \"a\" again"]);
    }

    #[test]
    fn a_token_may_come_from_a_file() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("token"), "0123456789abcdef\n").unwrap();
        let path = directory.path().join("evenkeel.yaml");
        std::fs::write(&path, "admin: {tokens: [{name: a, token_file: token}]}").unwrap();
        let config = Config::load(&path).unwrap();
        assert_eq!(config.roles.tokens[0].secret, Secret::new("0123456789abcdef".into()));
        assert_eq!(config.files, [directory.path().join("token")]);
    }

    #[test]
    fn tokens_stay_out_of_faults() {
        for yaml in [
            "admin: {tokens: [{name: a, token: hunter2}]}",
            "admin: {tokens: [{name: a, token: hunter2, x: 1}]}",
            "reader: {tokens: hunter2}",
            "admin: hunter2",
            "admin: {tokens: [hunter2]}",
            "gateway: {tokens: [{name: a, token: [hunter2]}]}",
            "admin: {tokens: [{name: a, token: hunter2 with blanks}, {name: b, token: hunter2 with blanks}]}",
            "admin: {tokens: [{name: a, token: hunter2hunter2hunter2}, {name: b, token: hunter2hunter2hunter2}]}",
        ] {
            let found = faults(yaml);
            assert!(found.iter().all(|fault| !fault.contains("hunter2")), "{found:?}");
        }
    }
}
