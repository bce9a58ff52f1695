//! `evenkeel.v1.Admin`: what administrators change and look up. One file for each part of it.

use std::sync::Arc;

use evenkeel_engine::{ledger::Ledger, limiter::Limiter};
use evenkeel_proto::v1::{
    AdjustQuotaRequest, DeleteOverrideRequest, DeleteOverrideResponse, DeleteQuotaRequest,
    DeleteQuotaResponse, Drain, DrainEndpointRequest, ExplainRequest, ExplainResponse, GetQuotaRequest,
    GetSessionRequest, ListChangesRequest, ListChangesResponse, ListDrainsRequest, ListDrainsResponse,
    ListLimitsRequest, ListLimitsResponse, ListOverridesRequest, ListOverridesResponse,
    ListQuotaChangesRequest, ListQuotaChangesResponse, ListQuotasRequest, ListQuotasResponse,
    ListSessionsRequest, ListSessionsResponse, Override, QueryUsageRequest, QueryUsageResponse, Quota,
    Session, SetOverrideRequest, SetQuotaRequest, UndrainEndpointRequest, UndrainEndpointResponse,
    admin_server::Admin,
};
use tonic::{Request, Response, Status};

use crate::transport::{administration::Administration, auth::Admins};

mod drains;
mod explain;
mod overrides;
pub(super) mod quotas;
mod usage;

/// The service.
pub struct AdminService {
    /// Limits and quotas.
    pub administration: Arc<Administration>,
    /// Usage.
    pub ledger: Arc<Ledger>,
    /// For explanations.
    pub limiter: Arc<Limiter>,
}

/// Who makes a changing call.
fn who<T>(admins: &Admins, request: &Request<T>) -> Result<String, Status> {
    let shown = request.metadata().get("authorization").map(|value| value.to_str().unwrap_or("?"));
    Ok(admins.who(shown)?)
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn list_limits(
        &self,
        _request: Request<ListLimitsRequest>,
    ) -> Result<Response<ListLimitsResponse>, Status> {
        Ok(Response::new(self.limits()))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        Ok(Response::new(explain::explain(&self.limiter, request.into_inner()).await?))
    }

    async fn set_override(&self, request: Request<SetOverrideRequest>) -> Result<Response<Override>, Status> {
        self.put_override(request).await
    }

    async fn delete_override(
        &self,
        request: Request<DeleteOverrideRequest>,
    ) -> Result<Response<DeleteOverrideResponse>, Status> {
        self.drop_override(request).await
    }

    async fn list_overrides(
        &self,
        request: Request<ListOverridesRequest>,
    ) -> Result<Response<ListOverridesResponse>, Status> {
        self.overrides(request).await
    }

    async fn get_quota(&self, request: Request<GetQuotaRequest>) -> Result<Response<Quota>, Status> {
        self.quota(request).await
    }

    async fn set_quota(&self, request: Request<SetQuotaRequest>) -> Result<Response<Quota>, Status> {
        self.set(request).await
    }

    async fn adjust_quota(&self, request: Request<AdjustQuotaRequest>) -> Result<Response<Quota>, Status> {
        self.adjust(request).await
    }

    async fn delete_quota(
        &self,
        request: Request<DeleteQuotaRequest>,
    ) -> Result<Response<DeleteQuotaResponse>, Status> {
        self.delete(request).await
    }

    async fn list_quotas(
        &self,
        request: Request<ListQuotasRequest>,
    ) -> Result<Response<ListQuotasResponse>, Status> {
        self.quotas(request).await
    }

    async fn list_quota_changes(
        &self,
        request: Request<ListQuotaChangesRequest>,
    ) -> Result<Response<ListQuotaChangesResponse>, Status> {
        self.changes(request).await
    }

    async fn query_usage(
        &self,
        request: Request<QueryUsageRequest>,
    ) -> Result<Response<QueryUsageResponse>, Status> {
        usage::query(&self.ledger, request.into_inner()).await.map(Response::new)
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        usage::sessions(&self.ledger, request.into_inner()).await.map(Response::new)
    }

    async fn get_session(&self, request: Request<GetSessionRequest>) -> Result<Response<Session>, Status> {
        usage::session(&self.ledger, request.into_inner()).await.map(Response::new)
    }

    async fn drain_endpoint(
        &self,
        request: Request<DrainEndpointRequest>,
    ) -> Result<Response<Drain>, Status> {
        self.drain(request).await
    }

    async fn undrain_endpoint(
        &self,
        request: Request<UndrainEndpointRequest>,
    ) -> Result<Response<UndrainEndpointResponse>, Status> {
        self.undrain(request).await
    }

    async fn list_drains(
        &self,
        _request: Request<ListDrainsRequest>,
    ) -> Result<Response<ListDrainsResponse>, Status> {
        self.drains().await
    }

    async fn list_changes(
        &self,
        request: Request<ListChangesRequest>,
    ) -> Result<Response<ListChangesResponse>, Status> {
        self.admin_changes(request).await
    }
}
