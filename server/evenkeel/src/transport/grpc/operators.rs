//! `evenkeel.v1.Inspect` and `evenkeel.v1.Admin`: each call runs one operation of the API.

use std::sync::Arc;

use evenkeel_api::Api;
use evenkeel_proto::v1::{admin_server::Admin, inspect_server::Inspect, *};
use futures::{StreamExt as _, stream::BoxStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::transport::{
    caller::{administrator, caller},
    status::status,
};

#[derive(Clone)]
pub(super) struct Operators {
    pub(super) api: Arc<Api>,
    /// Ends the watches, which would otherwise delay the shutdown.
    pub(super) stop: CancellationToken,
}

/// Implements a service. An operation marked `by(FUNCTION)` takes the caller that the function returns. An operation
/// marked `stream` ends when the sidecar stops.
macro_rules! service {
    ($service:ident: $($call:tt)*) => { service!(@ $service {} $($call)*); };
    (@ $service:ident {$($done:tt)*} $name:ident($request:ty) -> $response:ty; $($rest:tt)*) => {
        service!(@ $service {$($done)*
            async fn $name(&self, request: Request<$request>) -> Result<Response<$response>, Status> {
                self.api.$name(request.into_inner()).await.map(Response::new).map_err(status)
            }
        } $($rest)*);
    };
    (@ $service:ident {$($done:tt)*} by($by:path) $name:ident($request:ty) -> $response:ty; $($rest:tt)*) => {
        service!(@ $service {$($done)*
            async fn $name(&self, request: Request<$request>) -> Result<Response<$response>, Status> {
                let by = $by(request.extensions()).map_err(status)?;
                self.api.$name(by, request.into_inner()).await.map(Response::new).map_err(status)
            }
        } $($rest)*);
    };
    (@ $service:ident {$($done:tt)*}
        stream $stream:ident $name:ident($request:ty) -> $item:ty; $($rest:tt)*) => {
        service!(@ $service {$($done)*
            type $stream = BoxStream<'static, Result<$item, Status>>;

            async fn $name(&self, request: Request<$request>) -> Result<Response<Self::$stream>, Status> {
                let stream = self.api.$name(request.into_inner(), self.stop.clone()).map_err(status)?;
                Ok(Response::new(stream.map(Ok).boxed()))
            }
        } $($rest)*);
    };
    (@ $service:ident {$($done:tt)*}) => {
        #[tonic::async_trait]
        impl $service for Operators { $($done)* }
    };
}

service! { Inspect:
    get_overview(GetOverviewRequest) -> Overview;
    stream WatchStream watch(WatchRequest) -> WatchResponse;
    list_pools(ListPoolsRequest) -> ListPoolsResponse;
    get_pool(GetPoolRequest) -> PoolState;
    stream WatchPoolsStream watch_pools(WatchPoolsRequest) -> PoolState;
    list_endpoints(ListEndpointsRequest) -> ListEndpointsResponse;
    list_holders(ListHoldersRequest) -> ListHoldersResponse;
    list_leases(ListLeasesRequest) -> ListLeasesResponse;
    list_sidecars(ListSidecarsRequest) -> ListSidecarsResponse;
    list_gateways(ListGatewaysRequest) -> ListGatewaysResponse;
    get_activity(GetActivityRequest) -> GetActivityResponse;
    list_fullest_keys(ListFullestKeysRequest) -> ListFullestKeysResponse;
    list_burn_rates(ListBurnRatesRequest) -> ListBurnRatesResponse;
    list_refusals(ListRefusalsRequest) -> ListRefusalsResponse;
    get_refusal(GetRefusalRequest) -> Refusal;
    list_repairs(ListRepairsRequest) -> ListRepairsResponse;
}

service! { Admin:
    by(caller) who_am_i(WhoAmIRequest) -> WhoAmIResponse;
    list_limits(ListLimitsRequest) -> ListLimitsResponse;
    explain(ExplainRequest) -> ExplainResponse;
    by(administrator) set_override(SetOverrideRequest) -> Override;
    by(administrator) delete_override(DeleteOverrideRequest) -> DeleteOverrideResponse;
    list_overrides(ListOverridesRequest) -> ListOverridesResponse;
    get_quota(GetQuotaRequest) -> Quota;
    by(administrator) set_quota(SetQuotaRequest) -> Quota;
    by(administrator) adjust_quota(AdjustQuotaRequest) -> Quota;
    by(administrator) delete_quota(DeleteQuotaRequest) -> DeleteQuotaResponse;
    list_quotas(ListQuotasRequest) -> ListQuotasResponse;
    list_quota_changes(ListQuotaChangesRequest) -> ListQuotaChangesResponse;
    query_usage(QueryUsageRequest) -> QueryUsageResponse;
    list_sessions(ListSessionsRequest) -> ListSessionsResponse;
    get_session(GetSessionRequest) -> Session;
    by(administrator) drain_endpoint(DrainEndpointRequest) -> Drain;
    by(administrator) undrain_endpoint(UndrainEndpointRequest) -> UndrainEndpointResponse;
    list_drains(ListDrainsRequest) -> ListDrainsResponse;
    list_changes(ListChangesRequest) -> ListChangesResponse;
}
