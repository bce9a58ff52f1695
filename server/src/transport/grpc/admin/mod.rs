//! `evenkeel.v1.Admin`: what administrators change and look up. One file for each part of it.

use evenkeel_proto::v1::{
    AdjustQuotaRequest, DeleteOverrideRequest, DeleteOverrideResponse, DeleteQuotaRequest,
    DeleteQuotaResponse, ExplainRequest, ExplainResponse, GetQuotaRequest, GetSessionRequest,
    ListLimitsRequest, ListLimitsResponse, ListOverridesRequest, ListOverridesResponse,
    ListQuotaChangesRequest, ListQuotaChangesResponse, ListQuotasRequest, ListQuotasResponse,
    ListSessionsRequest, ListSessionsResponse, Override, QueryUsageRequest, QueryUsageResponse, Quota,
    Session, SetOverrideRequest, SetQuotaRequest, admin_server::Admin,
};
use tonic::{Request, Response, Status};

/// The service.
pub(super) struct AdminService {}

fn not_yet() -> Status {
    Status::unimplemented("not in this release")
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn list_limits(
        &self,
        _request: Request<ListLimitsRequest>,
    ) -> Result<Response<ListLimitsResponse>, Status> {
        Err(not_yet())
    }

    async fn explain(&self, _request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        Err(not_yet())
    }

    async fn set_override(
        &self,
        _request: Request<SetOverrideRequest>,
    ) -> Result<Response<Override>, Status> {
        Err(not_yet())
    }

    async fn delete_override(
        &self,
        _request: Request<DeleteOverrideRequest>,
    ) -> Result<Response<DeleteOverrideResponse>, Status> {
        Err(not_yet())
    }

    async fn list_overrides(
        &self,
        _request: Request<ListOverridesRequest>,
    ) -> Result<Response<ListOverridesResponse>, Status> {
        Err(not_yet())
    }

    async fn get_quota(&self, _request: Request<GetQuotaRequest>) -> Result<Response<Quota>, Status> {
        Err(not_yet())
    }

    async fn set_quota(&self, _request: Request<SetQuotaRequest>) -> Result<Response<Quota>, Status> {
        Err(not_yet())
    }

    async fn adjust_quota(&self, _request: Request<AdjustQuotaRequest>) -> Result<Response<Quota>, Status> {
        Err(not_yet())
    }

    async fn delete_quota(
        &self,
        _request: Request<DeleteQuotaRequest>,
    ) -> Result<Response<DeleteQuotaResponse>, Status> {
        Err(not_yet())
    }

    async fn list_quotas(
        &self,
        _request: Request<ListQuotasRequest>,
    ) -> Result<Response<ListQuotasResponse>, Status> {
        Err(not_yet())
    }

    async fn list_quota_changes(
        &self,
        _request: Request<ListQuotaChangesRequest>,
    ) -> Result<Response<ListQuotaChangesResponse>, Status> {
        Err(not_yet())
    }

    async fn query_usage(
        &self,
        _request: Request<QueryUsageRequest>,
    ) -> Result<Response<QueryUsageResponse>, Status> {
        Err(not_yet())
    }

    async fn list_sessions(
        &self,
        _request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        Err(not_yet())
    }

    async fn get_session(&self, _request: Request<GetSessionRequest>) -> Result<Response<Session>, Status> {
        Err(not_yet())
    }
}
