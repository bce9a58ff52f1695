//! The routes of the HTTP API, and the operation behind each route.

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    routing::{delete, get, post, put},
};

use super::{
    Http,
    reply::{Shared, reply},
    request::{Change, Known, Read},
    usage, watch,
};

/// Maximum size of a request body, in bytes.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// Declares each route as `HANDLER METHOD PATH OPERATION`. HANDLER is `read`; `change`, for an operation that takes the
/// administrator; `caller`, for an operation that takes the caller; or `own(HANDLER)`, for a separate handler. The role
/// that a route needs is in `transport/access/table.rs`.
macro_rules! routes {
    ($($kind:ident $(($handler:path))? $method:ident $path:literal $operation:ident;)*) => {
        pub(super) fn routes() -> Router<Arc<Http>> {
            let router = Router::new();
            $(let router = router.route($path, $method(handler!($kind $(($handler))? $operation)));)*
            router.layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        }

        /// Method in lower case, path and operation of each route.
        pub const ROUTES: &[(&str, &str, &str)] =
            &[$((stringify!($method), $path, stringify!($operation)),)*];
    };
}

macro_rules! handler {
    (read $operation:ident) => {
        |State(http): Shared, Read(request)| async move { reply(http.api.$operation(request).await) }
    };
    (change $operation:ident) => {
        |State(http): Shared, Change(by, request)| async move { reply(http.api.$operation(by, request).await) }
    };
    (caller $operation:ident) => {
        |State(http): Shared, Known(caller, request)| async move { reply(http.api.$operation(caller, request).await) }
    };
    (own($handler:path) $operation:ident) => {
        $handler
    };
}

routes! {
    read get "/api/v1/overview" get_overview;
    own(watch::watch) get "/api/v1/watch" watch;
    read get "/api/v1/pools" list_pools;
    read get "/api/v1/pool" get_pool;
    read get "/api/v1/endpoints" list_endpoints;
    read get "/api/v1/holders" list_holders;
    read get "/api/v1/leases" list_leases;
    read get "/api/v1/sidecars" list_sidecars;
    read get "/api/v1/gateways" list_gateways;
    read get "/api/v1/activity" get_activity;
    read get "/api/v1/limits/fullest" list_fullest_keys;
    read get "/api/v1/quotas/burn-rates" list_burn_rates;
    read get "/api/v1/refusals" list_refusals;
    read get "/api/v1/refusals/{request_id}" get_refusal;
    read get "/api/v1/repairs" list_repairs;
    caller get "/api/v1/whoami" who_am_i;
    read get "/api/v1/limits" list_limits;
    read post "/api/v1/explain" explain;
    read get "/api/v1/overrides" list_overrides;
    change put "/api/v1/overrides/{limit}/{key}" set_override;
    change delete "/api/v1/overrides/{limit}/{key}" delete_override;
    read get "/api/v1/quotas" list_quotas;
    read get "/api/v1/quotas/{quota}/{consumer}" get_quota;
    change put "/api/v1/quotas/{quota}/{consumer}" set_quota;
    change delete "/api/v1/quotas/{quota}/{consumer}" delete_quota;
    change post "/api/v1/quotas/{quota}/{consumer}/adjust" adjust_quota;
    read get "/api/v1/quotas/{quota}/{consumer}/changes" list_quota_changes;
    own(usage::usage) get "/api/v1/usage" query_usage;
    own(usage::sessions) get "/api/v1/usage/sessions" list_sessions;
    own(usage::session) get "/api/v1/usage/sessions/{session}" get_session;
    read get "/api/v1/drains" list_drains;
    change post "/api/v1/drains" drain_endpoint;
    change delete "/api/v1/drains" undrain_endpoint;
    read get "/api/v1/changes" list_changes;
}

#[cfg(test)]
mod tests {
    use std::{fmt::Write as _, fs, path::Path};

    use evenkeel_proto::FILE_DESCRIPTOR_SET;
    use prost::Message as _;
    use prost_types::{FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto};

    use super::*;
    use crate::transport::access::{Need, of_call};

    /// Returns `ListPools` for `list_pools`.
    fn rpc(operation: &str) -> String {
        let capital = |word: &str| word[..1].to_uppercase() + &word[1..];
        operation.split('_').map(capital).collect()
    }

    /// Returns the comment of a call. Its path in the descriptor is service 0 (field 6), method `at` (field 2).
    fn comment(file: &FileDescriptorProto, at: usize) -> String {
        let locations = file.source_code_info.iter().flat_map(|info| &info.location);
        let comment = locations.into_iter().find(|location| location.path == [6, 0, 2, at as i32]);
        let words =
            comment.map(|location| location.leading_comments().split_whitespace().collect::<Vec<_>>());
        words.unwrap_or_default().join(" ")
    }

    /// Returns the names of the request fields that are not in the path.
    fn fields(files: &FileDescriptorSet, call: &MethodDescriptorProto, path: &str) -> String {
        let name = call.input_type().rsplit('.').next();
        let messages = files.file.iter().flat_map(|file| &file.message_type);
        let message = messages.into_iter().find(|message| message.name.as_deref() == name);
        let fields = message.iter().flat_map(|message| &message.field).map(FieldDescriptorProto::name);
        let fields = fields.filter(|field| !path.contains(&format!("{{{field}}}")));
        fields.map(|field| format!("`{field}`")).collect::<Vec<_>>().join(", ")
    }

    /// Returns the tables of docs/api.md: every call of both services, with its route.
    fn tables() -> String {
        let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
        let mut text = String::new();
        for service in ["Inspect", "Admin"] {
            let file = files.file.iter().find(|f| f.service.iter().any(|s| s.name() == service)).unwrap();
            write!(text, "\n### {service}\n\n| HTTP | parameters | gRPC | role | |\n|---|---|---|---|---|\n")
                .unwrap();
            for (at, call) in file.service[0].method.iter().enumerate() {
                let route = ROUTES.iter().find(|(.., operation)| rpc(operation) == call.name());
                let path = route.map_or("", |(_, path, _)| path);
                let http = route.map(|(method, path, _)| format!("`{} {path}`", method.to_uppercase()));
                let (http, fields) = (http.unwrap_or_default(), fields(&files, call, path));
                let name = call.name();
                let Some(Need::Role(role)) = of_call(&format!("/evenkeel.v1.{service}/{name}")) else {
                    panic!("{name} needs no role");
                };
                let comment = comment(file, at);
                writeln!(text, "| {http} | {fields} | `{name}` | {role} | {comment} |").unwrap();
            }
        }
        text
    }

    #[test]
    fn the_documentation_lists_every_operation() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/api.md");
        let document = fs::read_to_string(&path).unwrap();
        let (begin, end) = ("<!-- operations -->\n", "\n<!-- end of operations -->");
        let (head, rest) = document.split_once(begin).unwrap();
        let (present, tail) = rest.split_once(end).unwrap();
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, format!("{head}{begin}{}{end}{tail}", tables())).unwrap();
        } else {
            assert_eq!(present, tables(), "run the test again with UPDATE=1");
        }
    }

    #[test]
    fn every_call_but_the_watch_of_pools_has_a_route() {
        let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
        let services = files.file.iter().flat_map(|file| &file.service).filter(|s| s.name() != "Gateway");
        let calls = services.flat_map(|service| &service.method).map(MethodDescriptorProto::name);
        let routed: Vec<String> = ROUTES.iter().map(|(.., operation)| rpc(operation)).collect();
        let missing: Vec<&str> = calls.filter(|call| !routed.iter().any(|name| name == call)).collect();
        assert_eq!(missing, ["WatchPools"]);
    }
}
