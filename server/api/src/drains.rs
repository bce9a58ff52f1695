//! Operations on drained endpoints, and on the change log.

use evenkeel_proto::v1::{
    self as pb, DrainEndpointRequest, ListChangesRequest, ListChangesResponse, ListDrainsRequest,
    ListDrainsResponse, Pool, UndrainEndpointRequest, UndrainEndpointResponse,
};
use evenkeel_store::{changes::AdminChange, drains::Drain};

use crate::{Administrator, Api, Result};

impl Api {
    pub async fn drain_endpoint(
        &self,
        by: Administrator,
        request: DrainEndpointRequest,
    ) -> Result<pb::Drain> {
        let DrainEndpointRequest { endpoint, route, cluster, note } = request;
        Ok(encode(self.drains.drain(&endpoint, pool(&route, &cluster), &note, &by.0).await?))
    }

    pub async fn undrain_endpoint(
        &self,
        by: Administrator,
        request: UndrainEndpointRequest,
    ) -> Result<UndrainEndpointResponse> {
        let UndrainEndpointRequest { endpoint, route, cluster } = request;
        self.drains.undrain(&endpoint, pool(&route, &cluster), &by.0).await?;
        Ok(UndrainEndpointResponse {})
    }

    pub async fn list_drains(&self, _: ListDrainsRequest) -> Result<ListDrainsResponse> {
        let drains = self.drains.list().await?;
        Ok(ListDrainsResponse { drains: drains.into_iter().map(encode).collect() })
    }

    pub async fn list_changes(&self, request: ListChangesRequest) -> Result<ListChangesResponse> {
        let ListChangesRequest { page_size, page_token } = request;
        let (page, next_page_token) = self.change_log.list(page_size, &page_token).await?;
        let changes = page.into_iter().map(|change| {
            let AdminChange { at_ms, who, what, target, before, after, note } = change;
            pb::AdminChange { at_ms, who, what, target, before, after, note }
        });
        Ok(ListChangesResponse { changes: changes.collect(), next_page_token })
    }
}

/// Returns the pool of a drain. Without route and cluster, returns `None`: the drain applies to every pool.
fn pool<'a>(route: &'a str, cluster: &'a str) -> Option<(&'a str, &'a str)> {
    (!route.is_empty() || !cluster.is_empty()).then_some((route, cluster))
}

fn encode(drain: Drain) -> pb::Drain {
    let Drain { endpoint, pool, note, who, at_ms } = drain;
    let pool = pool.map(|id| Pool { route: id.route().to_owned(), cluster: id.cluster().to_owned() });
    pb::Drain { endpoint, pool, note, who, at_ms }
}
