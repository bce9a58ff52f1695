//! Turns the bound sockets into sources of connections, and says in the log what is open to everybody.

use std::sync::Arc;

use evenkeel_config::Config;
use evenkeel_domain::settings::{Role, Roles};
use evenkeel_telemetry::Metrics;
use evenkeel_tls::ServerTls;
use tokio::{net::UnixListener, sync::watch};
use tracing::{info, warn};

use crate::{
    incoming::{Handshakes, Incoming},
    listeners::{Addresses, Listeners, SocketFile},
    transport::connections::{Gates, Listener},
};

/// The sources of connections.
pub(crate) struct Doors {
    pub(crate) grpc: Option<Incoming>,
    pub(crate) grpc_socket: Option<Listener<UnixListener>>,
    pub(crate) http: Incoming,
}

/// Opens the listeners. Each handshake uses the newest certificates in `tls`. Returns the sources of connections, and the
/// file of the Unix socket.
pub(crate) fn open(
    config: &Config,
    listeners: Listeners,
    tls: Option<&watch::Receiver<ServerTls>>,
    gates: &Gates,
    metrics: &Arc<Metrics>,
) -> (Doors, Option<SocketFile>) {
    let listen = &config.listen;
    let has = |of: fn(&evenkeel_config::Tls) -> bool| config.tls.as_ref().is_some_and(of);
    let handshakes = |name, select, wanted: bool| {
        let tls = tls.filter(|_| wanted)?.clone();
        Some(Handshakes::new(name, tls, select, Arc::clone(metrics)))
    };
    let of_grpc = handshakes("grpc", |tls| &tls.grpc, has(|tls| tls.grpc));
    let of_http = handshakes("http", |tls| &tls.http, has(|tls| tls.http));
    let (socket, socket_file) = listeners.socket.unzip();
    let grpc = listeners.grpc.map(|grpc| Listener::new(grpc, Arc::clone(&gates.grpc), listen.grpc_roles));
    let of_socket = |socket| Listener::new(socket, Arc::clone(&gates.grpc_socket), listen.grpc_socket_roles);
    let http = Listener::new(listeners.http, Arc::clone(&gates.http), listen.http_roles);
    let doors = Doors {
        grpc: grpc.map(|grpc| Incoming::new(grpc, of_grpc)),
        grpc_socket: socket.map(of_socket),
        http: Incoming::new(http, of_http),
    };
    (doors, socket_file)
}

/// Logs for each listener what callers may do there without a token or a certificate.
pub(crate) fn log_access(config: &Config, addresses: &Addresses) {
    let listen = &config.listen;
    if let Some(address) = &addresses.grpc {
        log_listener("listen.grpc", address, listen.grpc_roles, addresses.grpc_tls, config);
    }
    if let Some(path) = &addresses.grpc_socket {
        let (path, open) = (path.display(), names(listen.grpc_socket_roles));
        info!(listener = "listen.grpc_socket", %path, open, "access: these roles need no token or certificate");
    }
    log_listener("listen.http", &addresses.http, listen.http_roles, addresses.http_tls, config);
    if listen.open_metrics && !is_loopback(&addresses.http) {
        warn!(address = addresses.http, "access: anyone who can reach this address can read /metrics");
    }
    let open = addresses.grpc.as_ref().is_some_and(|_| listen.grpc_roles.has(Role::Gateway))
        || addresses.grpc_socket.as_ref().is_some_and(|_| listen.grpc_socket_roles.has(Role::Gateway));
    if !open && !config.roles.grants(Role::Gateway) {
        warn!(
            "access: nobody has the role gateway, so every call of a gateway is rejected: list certificates or tokens under \
             gateway, or set listen.grpc_roles: [gateway]"
        );
    }
}

fn log_listener(listener: &str, address: &str, roles: Roles, tls: bool, config: &Config) {
    let open = names(roles);
    if roles.is_empty() {
        info!(listener, address, tls, "access: every call but health needs a token or a certificate");
    } else if is_loopback(address) {
        info!(listener, address, tls, open, "access: these roles need no token or certificate");
    } else {
        warn!(listener, address, tls, open, "access: anyone who can reach this address has these roles");
    }
    if !tls && !is_loopback(address) && !config.roles.tokens.is_empty() {
        warn!(listener, address, "access: without TLS, tokens travel in clear text on this address");
    }
}

fn names(roles: Roles) -> String {
    roles.iter().map(Role::name).collect::<Vec<_>>().join(", ")
}

fn is_loopback(address: &str) -> bool {
    address.parse::<std::net::SocketAddr>().is_ok_and(|address| address.ip().to_canonical().is_loopback())
}
