//! The section `listen`: addresses, and what callers may do there without a token or a certificate.

use std::net::{IpAddr, SocketAddr};

use evenkeel_domain::settings::{Role, Roles};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Listen,
    check::Check,
    formats::{Socket, SocketOrOff},
};

/// The addresses on which the sidecar listens, and the roles of callers without a token or a certificate.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawListen {
    /// Address for gRPC over TCP; port 0 selects a free port. `off` requires `grpc_socket`.
    #[schemars(with = "SocketOrOff", extend("default" = "127.0.0.1:9190"))]
    pub(super) grpc: Option<String>,
    /// Roles of everybody who can connect to `grpc`: `gateway`, `reader`.
    #[schemars(extend("x-default" = "`[gateway, reader]` on a loopback address, `[]` on others"))]
    pub(super) grpc_roles: Option<Vec<RawRoleName>>,
    /// Path of a Unix socket for gRPC, in addition to `grpc`. The directory must exist. The sidecar replaces a socket
    /// that a dead process has left.
    #[schemars(length(min = 1, max = 107), extend("x-default" = "none"))]
    pub(super) grpc_socket: Option<String>,
    /// Mode of the socket file, in octal. Every process that may write to the file may call the sidecar.
    #[schemars(regex(pattern = "^0*[0-7]{1,3}$"), extend("default" = "0660", "x-range" = "octal, up to 0777"))]
    pub(super) grpc_socket_mode: Option<String>,
    /// Roles of everybody who can connect to `grpc_socket`: `gateway`, `reader`, `admin`.
    #[schemars(extend("default" = ["gateway", "reader"]))]
    pub(super) grpc_socket_roles: Option<Vec<RawRoleName>>,
    /// Address for metrics, health checks, the JSON API and the capacity page.
    #[schemars(with = "Socket", extend("default" = "127.0.0.1:9191"))]
    pub(super) http: Option<String>,
    /// Host names under which browsers and Prometheus may call `http`, such as that of a proxy with a login, without
    /// port. IP addresses and `localhost` are always allowed. Calls under other names are rejected with status 421,
    /// because a foreign site could have given its own name this address.
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)), extend("x-default" = "none"))]
    pub(super) hosts: Vec<String>,
    /// Roles of everybody who can connect to `http`: `reader`.
    #[schemars(extend("x-default" = "`[reader]` on a loopback address, `[]` on others"))]
    pub(super) http_roles: Option<Vec<RawRoleName>>,
    /// Who may read `/metrics`: `anyone`, or callers with the role `reader`. `/healthz` and `/readyz` need no role.
    #[schemars(extend("default" = "reader"))]
    pub(super) metrics: Option<RawMetricsAccess>,
    /// Maximum number of connections to `grpc`. A gateway has one connection for each of its workers.
    #[schemars(range(min = 16, max = 65536), extend("default" = 2048))]
    pub(super) connections_max: Option<usize>,
}

/// The name of a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum RawRoleName {
    Gateway,
    Reader,
    Admin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum RawMetricsAccess {
    Anyone,
    Reader,
}

impl From<RawRoleName> for Role {
    fn from(name: RawRoleName) -> Self {
        match name {
            RawRoleName::Gateway => Self::Gateway,
            RawRoleName::Reader => Self::Reader,
            RawRoleName::Admin => Self::Admin,
        }
    }
}

/// Returns whether only processes of this machine can reach an address.
fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

pub(super) fn validate(check: &mut Check, raw: RawListen) -> Listen {
    let default = |port| SocketAddr::from((IpAddr::from([127, 0, 0, 1]), port));
    let grpc = match raw.grpc.as_deref() {
        None => Some(default(9190)),
        Some("off") => None,
        Some(address) => check.socket("listen.grpc", address),
    };
    if raw.grpc.as_deref() == Some("off") && raw.grpc_socket.is_none() {
        check.fault("listen.grpc_socket", "a path if listen.grpc is off", "none");
    }
    // A Unix socket address holds at most 107 bytes of path and a terminating zero.
    if let Some(path) = raw.grpc_socket.as_deref().filter(|path| path.is_empty() || path.len() > 107) {
        check.fault("listen.grpc_socket", "a path of 1..107 bytes", format!("{path:?}"));
    }
    let mode = raw.grpc_socket_mode.as_deref().unwrap_or("0660");
    let grpc_socket_mode = u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o777);
    if grpc_socket_mode.is_none() {
        check.fault("listen.grpc_socket_mode", "an octal file mode such as \"0660\"", format!("{mode:?}"));
    }
    if raw.hosts.len() > 64 {
        check.fault("listen.hosts", "at most 64 entries", raw.hosts.len());
    }
    for (i, host) in raw.hosts.iter().enumerate().filter(|(_, host)| !is_host(host)) {
        check.fault(
            &format!("listen.hosts[{i}]"),
            "a host name without port, or an IP address",
            format!("{host:?}"),
        );
    }
    let connections_max = raw.connections_max.unwrap_or(2048);
    if !(16..=65536).contains(&connections_max) {
        check.fault("listen.connections_max", "16..65536", connections_max);
    }
    let http = raw.http.map_or(Some(default(9191)), |address| check.socket("listen.http", &address));
    let http = http.unwrap_or_else(|| default(9191));
    let mut roles = |field: &str, raw: Option<Vec<RawRoleName>>, default: &[Role], allowed: &[Role]| {
        let roles = raw.map(|raw| raw.into_iter().map(Role::from).collect::<Vec<_>>());
        let roles = roles.unwrap_or_else(|| default.to_vec());
        for role in roles.iter().filter(|role| !allowed.contains(role)) {
            let names = allowed.iter().map(|role| role.name()).collect::<Vec<_>>().join(", ");
            check.fault(&format!("listen.{field}"), &format!("roles among {names}"), role);
        }
        roles.into_iter().collect::<Roles>()
    };
    let of_gateways = [Role::Gateway, Role::Reader];
    let if_loopback = |address: Option<SocketAddr>, roles: &'static [Role]| {
        if address.is_some_and(is_loopback) { roles } else { &[] }
    };
    Listen {
        grpc,
        grpc_roles: roles(
            "grpc_roles",
            raw.grpc_roles,
            if_loopback(grpc, &[Role::Gateway, Role::Reader]),
            &of_gateways,
        ),
        grpc_socket: raw.grpc_socket.map(Into::into),
        grpc_socket_mode: grpc_socket_mode.unwrap_or(0o660),
        grpc_socket_roles: roles("grpc_socket_roles", raw.grpc_socket_roles, &of_gateways, &Role::ALL),
        http,
        hosts: raw.hosts.iter().map(|host| host.trim_end_matches('.').to_owned()).collect(),
        connections_max,
        http_roles: roles(
            "http_roles",
            raw.http_roles,
            if_loopback(Some(http), &[Role::Reader]),
            &[Role::Reader],
        ),
        open_metrics: raw.metrics == Some(RawMetricsAccess::Anyone),
    }
}

/// Returns whether a text is a host name, which no scheme, port or path belongs to.
fn is_host(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    (1..=253).contains(&text.len()) && text.chars().all(is_part) && text.contains(char::is_alphanumeric)
}

#[cfg(test)]
mod tests {
    use evenkeel_domain::settings::{Role, Roles};

    use crate::{Config, tests::faults};

    fn roles(listen: &str) -> [Vec<Role>; 3] {
        let listen = Config::parse(&format!("listen: {listen}")).unwrap().listen;
        let list = |roles: Roles| roles.iter().collect();
        [list(listen.grpc_roles), list(listen.grpc_socket_roles), list(listen.http_roles)]
    }

    #[test]
    fn only_loopback_addresses_are_open_by_default() {
        let both = vec![Role::Gateway, Role::Reader];
        let open = [both.clone(), both.clone(), vec![Role::Reader]];
        for listen in ["{}", "{grpc: '[::1]:1', http: '127.9.9.9:2'}", "{http: '[::ffff:127.0.0.1]:2'}"] {
            assert_eq!(roles(listen), open, "{listen}");
        }
        for address in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1", "169.254.0.1:1"] {
            let closed = roles(&format!("{{grpc: '{address}', http: '{address}'}}"));
            assert_eq!(closed, [vec![], both.clone(), vec![]], "{address}");
        }
        let given = "{grpc: '0.0.0.0:1', grpc_roles: [gateway], http_roles: [], grpc_socket_roles: [admin]}";
        assert_eq!(roles(given), [vec![Role::Gateway], vec![Role::Reader, Role::Admin], vec![]]);
    }

    #[test]
    fn no_address_grants_more_than_its_listener_serves() {
        let cases = [
            ("{grpc_roles: [admin]}", "listen.grpc_roles: must be roles among gateway, reader, got admin"),
            ("{http_roles: [gateway]}", "listen.http_roles: must be roles among reader, got gateway"),
            ("{http_roles: [admin]}", "listen.http_roles: must be roles among reader, got admin"),
        ];
        for (listen, expected) in cases {
            assert_eq!(faults(&format!("listen: {listen}")), [expected]);
        }
    }
}
