//! The table of roles: which role each call needs. Both the gRPC and the HTTP server use it. An HTTP route needs the role
//! of the call that it makes.

use axum::http::Method;
use evenkeel_domain::settings::Role;

use crate::transport::http::ROUTES;

/// What a call needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Nothing,
    /// What `listen.metrics` says.
    Metrics,
    Role(Role),
}

pub(super) const GATEWAY: Need = Need::Role(Role::Gateway);
const READER: Need = Need::Role(Role::Reader);
const ADMIN: Need = Need::Role(Role::Admin);

/// Calls over gRPC, by service and method.
const CALLS: [(&str, &str, Need); 44] = [
    ("envoy.service.ratelimit.v3.RateLimitService", "ShouldRateLimit", GATEWAY),
    ("evenkeel.v1.Admin", "AdjustQuota", ADMIN),
    ("evenkeel.v1.Admin", "DeleteOverride", ADMIN),
    ("evenkeel.v1.Admin", "DeleteQuota", ADMIN),
    ("evenkeel.v1.Admin", "DrainEndpoint", ADMIN),
    ("evenkeel.v1.Admin", "Explain", READER),
    ("evenkeel.v1.Admin", "GetQuota", READER),
    ("evenkeel.v1.Admin", "GetSession", READER),
    ("evenkeel.v1.Admin", "ListChanges", READER),
    ("evenkeel.v1.Admin", "ListDrains", READER),
    ("evenkeel.v1.Admin", "ListLimits", READER),
    ("evenkeel.v1.Admin", "ListOverrides", READER),
    ("evenkeel.v1.Admin", "ListQuotaChanges", READER),
    ("evenkeel.v1.Admin", "ListQuotas", READER),
    ("evenkeel.v1.Admin", "ListSessions", READER),
    ("evenkeel.v1.Admin", "QueryUsage", READER),
    ("evenkeel.v1.Admin", "SetOverride", ADMIN),
    ("evenkeel.v1.Admin", "SetQuota", ADMIN),
    ("evenkeel.v1.Admin", "UndrainEndpoint", ADMIN),
    ("evenkeel.v1.Admin", "WhoAmI", READER),
    ("evenkeel.v1.Gateway", "Admit", GATEWAY),
    ("evenkeel.v1.Gateway", "Connect", GATEWAY),
    ("evenkeel.v1.Gateway", "KeepAlive", GATEWAY),
    ("evenkeel.v1.Gateway", "ReportFirstTokens", GATEWAY),
    ("evenkeel.v1.Gateway", "Settle", GATEWAY),
    ("evenkeel.v1.Inspect", "GetActivity", READER),
    ("evenkeel.v1.Inspect", "GetOverview", READER),
    ("evenkeel.v1.Inspect", "GetPool", READER),
    ("evenkeel.v1.Inspect", "GetRefusal", READER),
    ("evenkeel.v1.Inspect", "ListBurnRates", READER),
    ("evenkeel.v1.Inspect", "ListEndpoints", READER),
    ("evenkeel.v1.Inspect", "ListFullestKeys", READER),
    ("evenkeel.v1.Inspect", "ListGateways", READER),
    ("evenkeel.v1.Inspect", "ListHolders", READER),
    ("evenkeel.v1.Inspect", "ListLeases", READER),
    ("evenkeel.v1.Inspect", "ListPools", READER),
    ("evenkeel.v1.Inspect", "ListRefusals", READER),
    ("evenkeel.v1.Inspect", "ListRepairs", READER),
    ("evenkeel.v1.Inspect", "ListSidecars", READER),
    ("evenkeel.v1.Inspect", "Watch", READER),
    ("evenkeel.v1.Inspect", "WatchPools", READER),
    // Load balancers ask for the health before they send anything else.
    ("grpc.health.v1.Health", "Check", Need::Nothing),
    ("grpc.health.v1.Health", "Watch", Need::Nothing),
    ("grpc.reflection.v1.ServerReflection", "ServerReflectionInfo", READER),
];

/// Paths of the HTTP server that make no call. The page contains no data, and asks for a token itself.
const PATHS: [(&str, Need); 5] = [
    ("/", Need::Nothing),
    ("/assets/{*path}", Need::Nothing),
    ("/healthz", Need::Nothing),
    ("/metrics", Need::Metrics),
    ("/readyz", Need::Nothing),
];

/// Returns what a call over gRPC needs, or `None` if the table does not have the call. The path is `/service/method`.
pub(crate) fn of_call(path: &str) -> Option<Need> {
    let key = path.strip_prefix('/')?.split_once('/')?;
    let found = CALLS.binary_search_by_key(&key, |(service, method, _)| (service, method)).ok()?;
    Some(CALLS[found].2)
}

/// Returns what a call over HTTP needs. `path` is the path of the route, with the names of its parameters. A route that
/// the table does not have needs an administrator.
pub(crate) fn of_route(method: &Method, path: &str) -> Need {
    if let Some((_, need)) = PATHS.iter().find(|(known, _)| *known == path) {
        return *need;
    }
    let of_path = ROUTES.iter().filter(|(_, known, _)| *known == path);
    let operation = of_path.clone().find(|(known, ..)| method.as_str().eq_ignore_ascii_case(known));
    match operation {
        Some((_, _, operation)) => of_operation(operation).unwrap_or(ADMIN),
        // Another method of a known path answers only 405.
        None if of_path.clone().next().is_some() => Need::Nothing,
        None => ADMIN,
    }
}

/// Returns what an operation of the API, such as `list_pools`, needs.
fn of_operation(operation: &str) -> Option<Need> {
    let is = |method: &str| {
        let letters = operation.bytes().filter(|b| *b != b'_');
        letters.eq(method.bytes().map(|b| b.to_ascii_lowercase()))
    };
    let mut calls =
        CALLS.iter().filter(|(service, ..)| ["evenkeel.v1.Admin", "evenkeel.v1.Inspect"].contains(service));
    calls.find(|(_, method, _)| is(method)).map(|(_, _, need)| *need)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use evenkeel_proto::FILE_DESCRIPTOR_SET;
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn the_table_is_sorted() {
        assert!(CALLS.is_sorted_by_key(|(service, method, _)| (*service, *method)));
    }

    /// Every call of every service that the sidecar serves has a row, and no row is left over.
    #[test]
    fn every_call_has_a_row() {
        let sets = [FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET];
        let files = sets.iter().flat_map(|set| FileDescriptorSet::decode(*set).unwrap().file);
        // The descriptors of these services are not embedded.
        let mut calls = BTreeSet::from([
            "grpc.reflection.v1.ServerReflection/ServerReflectionInfo".to_owned(),
            "envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit".to_owned(),
        ]);
        for file in files {
            for service in &file.service {
                let name = format!("{}.{}", file.package(), service.name());
                calls.extend(service.method.iter().map(|method| format!("{name}/{}", method.name())));
            }
        }
        let rows: BTreeSet<String> =
            CALLS.iter().map(|(service, method, _)| format!("{service}/{method}")).collect();
        assert_eq!(rows, calls);
    }

    #[test]
    fn every_route_has_the_role_of_its_call() {
        for (method, path, operation) in ROUTES {
            let method: Method = method.to_uppercase().parse().unwrap();
            assert!(matches!(of_route(&method, path), Need::Role(_)), "{path}");
            assert_eq!(Some(of_route(&method, path)), of_operation(operation), "{path}");
        }
        assert_eq!(of_route(&Method::PUT, "/api/v1/quotas/{quota}/{consumer}"), ADMIN);
        assert_eq!(of_route(&Method::GET, "/api/v1/quotas/{quota}/{consumer}"), READER);
    }

    #[test]
    fn what_the_table_does_not_have_is_closed() {
        assert_eq!(of_route(&Method::GET, "/api/v1/new"), ADMIN);
        for path in ["/evenkeel.v1.Admin/New", "/evenkeel.v1.New/Admit", "/", "evenkeel.v1.Gateway/Admit", ""]
        {
            assert_eq!(of_call(path), None, "{path}");
        }
        assert_eq!(of_call("/evenkeel.v1.Gateway/Admit"), Some(GATEWAY));
    }
}
