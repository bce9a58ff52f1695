//! Limits, and overrides of them.

use evenkeel_domain::{
    DomainError,
    limit::{Algorithm, Limit},
};
use evenkeel_proto::v1::{
    self as pb, DeleteOverrideRequest, DeleteOverrideResponse, ListLimitsResponse, ListOverridesRequest,
    ListOverridesResponse, SetOverrideRequest,
};
use evenkeel_store::records::Override;
use tonic::{Request, Response, Status};

use super::{AdminService, quotas::counts, who};
use crate::transport::status::to_status;

type Answer<T> = Result<Response<T>, Status>;

impl AdminService {
    pub(super) fn limits(&self) -> ListLimitsResponse {
        let limits = self.administration.overrides.limits();
        ListLimitsResponse { limits: limits.iter().map(|limit| encode_limit(limit)).collect() }
    }

    pub(super) async fn put_override(&self, request: Request<SetOverrideRequest>) -> Answer<pb::Override> {
        let who = who(&self.administration.admins, &request)?;
        let given = request.into_inner().r#override;
        let given = given.ok_or_else(|| to_status(&DomainError::invalid("override", "given", "none")))?;
        let new = Override {
            limit: given.limit,
            key: given.key,
            amount: (!given.unlimited).then_some(given.amount),
            expires_at_ms: Some(given.expires_at_ms).filter(|at| *at > 0),
            who,
            at_ms: 0,
        };
        let set = self.administration.overrides.set(new).await;
        Ok(Response::new(encode(set.map_err(|e| to_status(&e))?)))
    }

    pub(super) async fn drop_override(
        &self,
        request: Request<DeleteOverrideRequest>,
    ) -> Answer<DeleteOverrideResponse> {
        let who = who(&self.administration.admins, &request)?;
        let DeleteOverrideRequest { limit, key } = request.into_inner();
        let deleted = self.administration.overrides.delete(&limit, &key, &who).await;
        deleted.map_err(|e| to_status(&e))?;
        Ok(Response::new(DeleteOverrideResponse {}))
    }

    pub(super) async fn overrides(
        &self,
        request: Request<ListOverridesRequest>,
    ) -> Answer<ListOverridesResponse> {
        let ListOverridesRequest { limit, page_size, page_token } = request.into_inner();
        let page = self.administration.overrides.list(&limit, page_size, &page_token).await;
        let (page, next_page_token) = page.map_err(|e| to_status(&e))?;
        let overrides = page.into_iter().map(encode).collect();
        Ok(Response::new(ListOverridesResponse { overrides, next_page_token }))
    }
}

fn encode(set: Override) -> pb::Override {
    pb::Override {
        limit: set.limit,
        key: set.key,
        amount: set.amount.unwrap_or(0),
        unlimited: set.amount.is_none(),
        expires_at_ms: set.expires_at_ms.unwrap_or(0),
        who: set.who,
        at_ms: set.at_ms,
    }
}

fn encode_limit(limit: &Limit) -> pb::Limit {
    let (algorithm, burst) = match limit.algorithm {
        Algorithm::FixedWindow => (pb::Algorithm::FixedWindow, 0),
        Algorithm::SlidingWindow => (pb::Algorithm::SlidingWindow, 0),
        Algorithm::TokenBucket { burst } => (pb::Algorithm::TokenBucket, burst),
        Algorithm::Concurrency => (pb::Algorithm::Concurrency, 0),
    };
    let per = if algorithm == pb::Algorithm::Concurrency { String::new() } else { limit.period.to_string() };
    pb::Limit {
        name: limit.name.to_string(),
        counts: counts(limit.counts).into(),
        algorithm: algorithm.into(),
        amount: limit.amount,
        burst,
        per,
        key: limit.key.attributes().iter().map(ToString::to_string).collect(),
        shadow: limit.shadow,
    }
}
