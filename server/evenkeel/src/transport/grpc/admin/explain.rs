//! Which limits apply to a request, and why.

use evenkeel_domain::DomainError;
use evenkeel_engine::limiter::{Limiter, explain::Explanation as Explained};
use evenkeel_proto::v1::{ExplainRequest, ExplainResponse, Explanation, Tokens};
use tonic::Status;

use crate::transport::{grpc::request, status::to_status};

pub(super) async fn explain(limiter: &Limiter, request: ExplainRequest) -> Result<ExplainResponse, Status> {
    let missing = || to_status(&DomainError::invalid("request", "given", "none"));
    let mut request = request.request.ok_or_else(missing)?;
    let pool = request.pool.take().unwrap_or_default();
    let ask = request::limit_request(request, pool);
    let explained = limiter.explain(&ask).await.map_err(DomainError::store("explaining"));
    let explained = explained.map_err(|e| to_status(&e))?;
    let estimate =
        Tokens { input: explained.estimate.input, output: explained.estimate.output, ..Tokens::default() };
    Ok(ExplainResponse {
        limits: explained.limits.into_iter().map(encode).collect(),
        admitted: explained.admitted,
        estimate: Some(estimate),
    })
}

fn encode(explained: Explained) -> Explanation {
    let reading = explained.reading;
    // Of a prepaid quota the reading tells what is left.
    let used = if explained.prepaid { reading.amount.saturating_sub(reading.used) } else { reading.used };
    Explanation {
        name: explained.name.to_string(),
        applies: explained.applies,
        why: explained.why,
        key: explained.key,
        amount: reading.amount,
        used,
        reserved: reading.reserved,
        cost: explained.cost,
        refuses: reading.over && !explained.shadow,
        reset_ms: reading.reset_ms,
        shadow: explained.shadow,
        quota: explained.quota,
    }
}
