//! What gateways tell of a request, in the words of the domain.

use evenkeel_domain::{
    NAME_BYTES_MAX,
    limit::{Facts, price::Tokens},
    usage::{Outcome as UsageOutcome, SESSION_BYTES_MAX},
};
use evenkeel_engine::limiter::{Ask, Ending, Told};
use evenkeel_proto::v1::{AdmitRequest, Outcome, Pool, SettleRequest};

/// Longest id of a request, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// More tokens than any request has: who tells of more is not believed.
const TOKENS_MAX: u64 = 1_000_000_000;

/// A request as limits look at it. Texts that a client may have chosen are never refused, as a gateway may let a
/// request pass that it got no answer about: what is too long is cut, and control characters are replaced.
pub(super) fn ask(request: AdmitRequest, pool: Pool) -> Ask {
    let subject = request.subject.unwrap_or_default();
    let facts = Facts {
        consumer: tidy(subject.consumer, NAME_BYTES_MAX),
        source_ip: subject.source_ip.parse().ok(),
        path: subject.path,
        headers: subject.headers,
        model: tidy(request.model, NAME_BYTES_MAX),
        route: pool.route,
        cluster: pool.cluster,
        descriptors: subject.descriptors,
    };
    let prompt_bytes = request.prompt_bytes.min(TOKENS_MAX);
    let max_output_tokens = request.max_output_tokens.min(TOKENS_MAX);
    let session = tidy(request.session, SESSION_BYTES_MAX);
    Ask { facts, session, prompt_bytes, max_output_tokens }
}

/// The gateway's id of a request, as it is kept.
pub(super) fn request_id(text: String) -> String {
    tidy(text, REQUEST_ID_BYTES_MAX)
}

fn tidy(text: String, bytes_max: usize) -> String {
    let clean =
        if text.chars().any(char::is_control) { text.replace(char::is_control, "\u{fffd}") } else { text };
    if clean.len() <= bytes_max {
        return clean;
    }
    let end = (0..=bytes_max).rev().find(|end| clean.is_char_boundary(*end)).unwrap_or(0);
    clean[..end].to_owned()
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
    let credible =
        |tokens: &&evenkeel_proto::v1::Tokens| tokens.input <= TOKENS_MAX && tokens.output <= TOKENS_MAX;
    let tokens = request.tokens.as_ref().filter(credible).map(|tokens| Tokens {
        input: tokens.input,
        output: tokens.output,
        cached_input: tokens.cached_input,
        reasoning: tokens.reasoning,
    });
    Told {
        ending,
        tokens,
        is_final: request.tokens_final && tokens.is_some(),
        output_bytes: request.output_bytes.min(TOKENS_MAX),
        began: request.first_token_ms > 0,
        body_read: request.body_read,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_a_client_chooses_is_refused() {
        let request = AdmitRequest {
            model: format!("m\n\u{85}{}", "é".repeat(200)),
            session: "s".repeat(300),
            ..AdmitRequest::default()
        };
        let ask = ask(request, Pool::default());
        assert!(ask.facts.model.starts_with("m\u{fffd}\u{fffd}é") && ask.facts.model.len() <= NAME_BYTES_MAX);
        assert_eq!(ask.session.len(), SESSION_BYTES_MAX);
    }

    #[test]
    fn incredible_numbers_are_not_believed() {
        let tokens = |input| Some(evenkeel_proto::v1::Tokens { input, ..Default::default() });
        let settle =
            |input| SettleRequest { tokens: tokens(input), tokens_final: true, ..Default::default() };
        let told_of = |input| told(&settle(input));
        assert!(told_of(TOKENS_MAX).is_final);
        for input in [TOKENS_MAX + 1, 1 << 63, u64::MAX] {
            assert_eq!((told_of(input).tokens, told_of(input).is_final), (None, false));
        }
    }
}
