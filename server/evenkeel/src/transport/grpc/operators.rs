//! `evenkeel.v1.Inspect` and `evenkeel.v1.Admin`: each call runs one operation of the API.

use std::sync::Arc;

use evenkeel_api::{Administrator, Api};
use evenkeel_proto::v1::{admin_server::Admin, inspect_server::Inspect, *};
use futures::{StreamExt as _, stream::BoxStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::transport::status::status;

#[derive(Clone)]
pub(super) struct Operators {
    pub(super) api: Arc<Api>,
    /// Ends the watches, which would otherwise delay the shutdown.
    pub(super) stop: CancellationToken,
}

impl Operators {
    /// Returns the administrator whom [`bounds`](super::bounds) found by the head of the request.
    fn administrator<T>(request: &mut Request<T>) -> Result<Administrator, Status> {
        let by = request.extensions_mut().remove();
        by.ok_or_else(|| Status::internal("the administrator was not checked"))
    }
}

/// Returns whether a method needs an administrator.
pub(super) fn needs_administrator(path: &str) -> bool {
    let of = |service: &str, changes: &[&str]| {
        let method = path.strip_prefix(service).and_then(|rest| rest.strip_prefix('/'));
        method.is_some_and(|method| changes.iter().any(|change| is_named(change, method)))
    };
    of("/evenkeel.v1.Admin", CHANGES_OF_ADMIN) || of("/evenkeel.v1.Inspect", CHANGES_OF_INSPECT)
}

/// Returns whether `set_quota` is the operation of the method `SetQuota`.
fn is_named(operation: &str, method: &str) -> bool {
    let letters = operation.bytes().filter(|byte| *byte != b'_');
    letters.eq(method.bytes().map(|byte| byte.to_ascii_lowercase()))
}

/// Implements a service. An operation marked `by` needs an administrator's token. An operation marked `stream` ends
/// when the sidecar stops.
macro_rules! service {
    ($service:ident $changes:ident: $($call:tt)*) => { service!(@ $service $changes [] {} $($call)*); };
    (@ $service:ident $changes:ident [$($by:ident)*] {$($done:tt)*} $name:ident($request:ty) -> $response:ty; $($rest:tt)*) => {
        service!(@ $service $changes [$($by)*] {$($done)*
            async fn $name(&self, request: Request<$request>) -> Result<Response<$response>, Status> {
                self.api.$name(request.into_inner()).await.map(Response::new).map_err(status)
            }
        } $($rest)*);
    };
    (@ $service:ident $changes:ident [$($by:ident)*] {$($done:tt)*}
        by $name:ident($request:ty) -> $response:ty; $($rest:tt)*) => {
        service!(@ $service $changes [$($by)* $name] {$($done)*
            async fn $name(&self, mut request: Request<$request>) -> Result<Response<$response>, Status> {
                let by = Self::administrator(&mut request)?;
                self.api.$name(by, request.into_inner()).await.map(Response::new).map_err(status)
            }
        } $($rest)*);
    };
    (@ $service:ident $changes:ident [$($by:ident)*] {$($done:tt)*}
        stream $stream:ident $name:ident($request:ty) -> $item:ty; $($rest:tt)*) => {
        service!(@ $service $changes [$($by)*] {$($done)*
            type $stream = BoxStream<'static, Result<$item, Status>>;

            async fn $name(&self, request: Request<$request>) -> Result<Response<Self::$stream>, Status> {
                let stream = self.api.$name(request.into_inner(), self.stop.clone()).map_err(status)?;
                Ok(Response::new(stream.map(Ok).boxed()))
            }
        } $($rest)*);
    };
    (@ $service:ident $changes:ident [$($by:ident)*] {$($done:tt)*}) => {
        /// The calls of the service that need an administrator.
        const $changes: &[&str] = &[$(stringify!($by)),*];

        #[tonic::async_trait]
        impl $service for Operators { $($done)* }
    };
}

service! { Inspect CHANGES_OF_INSPECT:
    get_overview(GetOverviewRequest) -> Overview;
    stream WatchStream watch(WatchRequest) -> WatchResponse;
    list_pools(ListPoolsRequest) -> ListPoolsResponse;
    get_pool(GetPoolRequest) -> PoolState;
    stream WatchPoolsStream watch_pools(WatchPoolsRequest) -> PoolState;
    list_endpoints(ListEndpointsRequest) -> ListEndpointsResponse;
    list_holders(ListHoldersRequest) -> ListHoldersResponse;
    list_leases(ListLeasesRequest) -> ListLeasesResponse;
    list_sidecars(ListSidecarsRequest) -> ListSidecarsResponse;
    get_activity(GetActivityRequest) -> GetActivityResponse;
    list_fullest_keys(ListFullestKeysRequest) -> ListFullestKeysResponse;
    list_burn_rates(ListBurnRatesRequest) -> ListBurnRatesResponse;
    list_refusals(ListRefusalsRequest) -> ListRefusalsResponse;
    get_refusal(GetRefusalRequest) -> Refusal;
    list_repairs(ListRepairsRequest) -> ListRepairsResponse;
}

service! { Admin CHANGES_OF_ADMIN:
    by who_am_i(WhoAmIRequest) -> WhoAmIResponse;
    list_limits(ListLimitsRequest) -> ListLimitsResponse;
    explain(ExplainRequest) -> ExplainResponse;
    by set_override(SetOverrideRequest) -> Override;
    by delete_override(DeleteOverrideRequest) -> DeleteOverrideResponse;
    list_overrides(ListOverridesRequest) -> ListOverridesResponse;
    get_quota(GetQuotaRequest) -> Quota;
    by set_quota(SetQuotaRequest) -> Quota;
    by adjust_quota(AdjustQuotaRequest) -> Quota;
    by delete_quota(DeleteQuotaRequest) -> DeleteQuotaResponse;
    list_quotas(ListQuotasRequest) -> ListQuotasResponse;
    list_quota_changes(ListQuotaChangesRequest) -> ListQuotaChangesResponse;
    query_usage(QueryUsageRequest) -> QueryUsageResponse;
    list_sessions(ListSessionsRequest) -> ListSessionsResponse;
    get_session(GetSessionRequest) -> Session;
    by drain_endpoint(DrainEndpointRequest) -> Drain;
    by undrain_endpoint(UndrainEndpointRequest) -> UndrainEndpointResponse;
    list_drains(ListDrainsRequest) -> ListDrainsResponse;
    list_changes(ListChangesRequest) -> ListChangesResponse;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_changes_need_an_administrator() {
        for method in ["WhoAmI", "SetQuota", "AdjustQuota", "DeleteOverride", "DrainEndpoint"] {
            assert!(needs_administrator(&format!("/evenkeel.v1.Admin/{method}")), "{method}");
        }
        for path in ["/evenkeel.v1.Admin/GetQuota", "/evenkeel.v1.Inspect/GetPool", "/x/SetQuota", "SetQuota"]
        {
            assert!(!needs_administrator(path), "{path}");
        }
    }
}
