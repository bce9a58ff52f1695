//! Draining endpoints, and what administrators have changed.

use evenkeel_proto::v1::{
    self as pb, DrainEndpointRequest, ListChangesRequest, ListChangesResponse, ListDrainsResponse, Pool,
    UndrainEndpointRequest, UndrainEndpointResponse,
};
use evenkeel_store::{changes::AdminChange, drains::Drain};
use tonic::{Request, Response, Status};

use super::{AdminService, who};
use crate::transport::status::to_status;

type Answer<T> = Result<Response<T>, Status>;

impl AdminService {
    pub(super) async fn drain(&self, request: Request<DrainEndpointRequest>) -> Answer<pb::Drain> {
        let who = who(&self.administration.admins, &request)?;
        let DrainEndpointRequest { endpoint, pool, note } = request.into_inner();
        let drained = self.administration.drains.drain(&endpoint, names(pool.as_ref()), &note, &who).await;
        Ok(Response::new(encode(drained.map_err(|e| to_status(&e))?)))
    }

    pub(super) async fn undrain(
        &self,
        request: Request<UndrainEndpointRequest>,
    ) -> Answer<UndrainEndpointResponse> {
        let who = who(&self.administration.admins, &request)?;
        let UndrainEndpointRequest { endpoint, pool } = request.into_inner();
        let undrained = self.administration.drains.undrain(&endpoint, names(pool.as_ref()), &who).await;
        undrained.map_err(|e| to_status(&e))?;
        Ok(Response::new(UndrainEndpointResponse {}))
    }

    pub(super) async fn drains(&self) -> Answer<ListDrainsResponse> {
        let drains = self.administration.drains.list().await.map_err(|e| to_status(&e))?;
        Ok(Response::new(ListDrainsResponse { drains: drains.into_iter().map(encode).collect() }))
    }

    pub(super) async fn admin_changes(
        &self,
        request: Request<ListChangesRequest>,
    ) -> Answer<ListChangesResponse> {
        let changes = self.administration.change_log.list(request.into_inner().page_size).await;
        let changes = changes.map_err(|e| to_status(&e))?.into_iter().map(encode_change).collect();
        Ok(Response::new(ListChangesResponse { changes }))
    }
}

fn names(pool: Option<&Pool>) -> Option<(&str, &str)> {
    pool.map(|pool| (pool.route.as_str(), pool.cluster.as_str()))
}

fn encode(drain: Drain) -> pb::Drain {
    let Drain { endpoint, pool, note, who, at_ms } = drain;
    let pool = pool.map(|id| Pool { route: id.route().to_owned(), cluster: id.cluster().to_owned() });
    pb::Drain { endpoint, pool, note, who, at_ms }
}

fn encode_change(change: AdminChange) -> pb::AdminChange {
    let AdminChange { at_ms, who, what, target, before, after, note } = change;
    pb::AdminChange { at_ms, who, what, target, before, after, note }
}
