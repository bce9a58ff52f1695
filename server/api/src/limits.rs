//! Operations on limits and their overrides. Also explains which limits apply to a request.

use evenkeel_domain::{
    DomainError,
    limit::{Algorithm, Limit},
};
use evenkeel_engine::limiter::{explain::Explanation as Explained, override_key::form_of_key};
use evenkeel_proto::v1::{
    self as pb, DeleteOverrideRequest, DeleteOverrideResponse, ExplainRequest, ExplainResponse, Explanation,
    ListLimitsRequest, ListLimitsResponse, ListOverridesRequest, ListOverridesResponse, RuleKind,
    SetOverrideRequest,
};
use evenkeel_store::overrides::Override;

use crate::{Administrator, Api, ApiError, Code, Result, convert::counts, usage::tokens};

impl Api {
    #[allow(clippy::unused_async)] // every operation is async
    pub async fn list_limits(&self, _: ListLimitsRequest) -> Result<ListLimitsResponse> {
        Ok(ListLimitsResponse { limits: self.overrides.limits().iter().map(|limit| encode(limit)).collect() })
    }

    pub async fn explain(&self, request: ExplainRequest) -> Result<ExplainResponse> {
        let missing = || DomainError::invalid("request", "given", "none");
        let mut request = request.request.ok_or_else(missing)?;
        let pool = request.pool.take().unwrap_or_default();
        let explained = self.limiter.explain(&(self.limit_request)(request, pool)).await;
        let explained = explained.map_err(DomainError::store("explaining"))?;
        Ok(ExplainResponse {
            limits: explained.limits.into_iter().map(explanation).collect(),
            admitted: explained.admitted,
            estimate: Some(tokens(&explained.estimate)),
        })
    }

    pub async fn set_override(&self, by: Administrator, request: SetOverrideRequest) -> Result<pb::Override> {
        let SetOverrideRequest { limit, key, amount, unlimited, expires_at_ms } = request;
        if amount.is_some() == unlimited {
            let got = if unlimited { "both" } else { "neither" };
            let expected = "given, or unlimited: true";
            return Err(ApiError::of_field(Code::InvalidArgument, "amount", expected, got));
        }
        let expires_at_ms = Some(expires_at_ms).filter(|at| *at > 0);
        let new = Override { limit, key, amount, expires_at_ms, who: by.0, at_ms: 0 };
        Ok(encode_override(self.overrides.set(new).await?))
    }

    pub async fn delete_override(
        &self,
        by: Administrator,
        request: DeleteOverrideRequest,
    ) -> Result<DeleteOverrideResponse> {
        self.overrides.delete(&request.limit, &request.key, &by.0).await?;
        Ok(DeleteOverrideResponse {})
    }

    pub async fn list_overrides(&self, request: ListOverridesRequest) -> Result<ListOverridesResponse> {
        let ListOverridesRequest { limit, search, page_size, page_token } = request;
        let (page, next_page_token) = self.overrides.list(&limit, &search, page_size, &page_token).await?;
        let overrides = page.into_iter().map(encode_override).collect();
        Ok(ListOverridesResponse { overrides, next_page_token })
    }
}

fn encode_override(set: Override) -> pb::Override {
    pb::Override {
        limit: set.limit,
        key: set.key,
        amount: set.amount,
        unlimited: set.amount.is_none(),
        expires_at_ms: set.expires_at_ms.unwrap_or(0),
        who: set.who,
        at_ms: set.at_ms,
    }
}

fn encode(limit: &Limit) -> pb::Limit {
    let (algorithm, burst) = match limit.algorithm {
        Algorithm::FixedWindow => (pb::Algorithm::FixedWindow, None),
        Algorithm::SlidingWindow => (pb::Algorithm::SlidingWindow, None),
        Algorithm::TokenBucket { burst } => (pb::Algorithm::TokenBucket, Some(burst)),
        Algorithm::Concurrency => (pb::Algorithm::Concurrency, None),
    };
    pb::Limit {
        name: limit.name.to_string(),
        counts: counts(limit.counts).into(),
        algorithm: algorithm.into(),
        amount: limit.amount,
        burst,
        per: (algorithm != pb::Algorithm::Concurrency).then(|| limit.period.to_string()),
        key: limit.key.attributes().iter().map(ToString::to_string).collect(),
        form_of_key: form_of_key(limit),
        shadow: limit.shadow,
    }
}

fn explanation(explained: Explained) -> Explanation {
    let state = explained.state;
    // For a prepaid quota, `state.used` is the balance.
    let used = if explained.prepaid { state.amount.saturating_sub(state.used) } else { state.used };
    let kind = if explained.quota { RuleKind::Quota } else { RuleKind::Limit };
    Explanation {
        name: explained.name.to_string(),
        kind: kind.into(),
        applies: explained.applies,
        why: explained.why,
        key: explained.key,
        amount: state.amount,
        used,
        reserved: state.reserved,
        cost: explained.cost,
        refuses: state.over && !explained.shadow,
        reset_ms: state.reset_ms,
        shadow: explained.shadow,
    }
}
