//! What gateways tell of a request, in the words of the domain.

use evenkeel_proto::v1::{AdmitRequest, Outcome, Pool, SettleRequest};

use crate::{
    domain::{
        DomainError, check_name,
        limit::{Facts, price::Tokens},
        usage::{Outcome as UsageOutcome, SESSION_BYTES_MAX},
    },
    limiter::{Ask, Ending, Told},
};

/// A request as limits look at it.
pub(super) fn ask(request: AdmitRequest, pool: Pool) -> Result<Ask, DomainError> {
    let subject = request.subject.unwrap_or_default();
    check_name("subject.consumer", &subject.consumer)?;
    check_name("model", &request.model)?;
    if request.session.len() > SESSION_BYTES_MAX {
        let got = format!("{} bytes", request.session.len());
        return Err(DomainError::invalid("session", "at most 128 bytes", &got));
    }
    let facts = Facts {
        consumer: subject.consumer,
        source_ip: subject.source_ip.parse().ok(),
        path: subject.path,
        headers: subject.headers,
        model: request.model,
        route: pool.route,
        cluster: pool.cluster,
        descriptors: subject.descriptors,
    };
    let (prompt_bytes, max_output_tokens) = (request.prompt_bytes, request.max_output_tokens);
    Ok(Ask { facts, session: request.session, prompt_bytes, max_output_tokens })
}

/// What a gateway tells of an ended request's usage.
pub(super) fn told(request: &SettleRequest) -> Told {
    let ending = match request.outcome() {
        Outcome::Success => Ending::Complete,
        Outcome::ClientError | Outcome::ServerError => Ending::Failed,
        Outcome::UpstreamReset | Outcome::ClientAbort | Outcome::Timeout | Outcome::Unspecified => {
            Ending::CutOff
        }
        Outcome::NotSent => Ending::NotSent,
    };
    let tokens = request.tokens.map(|tokens| Tokens {
        input: tokens.input,
        output: tokens.output,
        cached_input: tokens.cached_input,
        reasoning: tokens.reasoning,
    });
    Told {
        ending,
        tokens,
        is_final: request.tokens_final,
        output_bytes: request.output_bytes,
        began: request.first_token_ms > 0,
    }
}

/// How a request ended, for the ledger.
pub(super) fn outcome(outcome: Outcome) -> UsageOutcome {
    match outcome {
        Outcome::Unspecified => UsageOutcome::Unknown,
        Outcome::Success => UsageOutcome::Success,
        Outcome::ClientError => UsageOutcome::ClientError,
        Outcome::ServerError => UsageOutcome::ServerError,
        Outcome::UpstreamReset => UsageOutcome::UpstreamReset,
        Outcome::ClientAbort => UsageOutcome::ClientAbort,
        Outcome::Timeout => UsageOutcome::Timeout,
        Outcome::NotSent => UsageOutcome::NotSent,
    }
}
