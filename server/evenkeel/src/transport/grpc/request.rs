//! Decodes what gateways report about a request.

use std::{borrow::Cow, mem::take};

use evenkeel_domain::{
    NAME_BYTES_MAX, clean,
    limit::{Attributes, Generation, RequestBody, price::Tokens},
    shorten,
    usage::{Outcome, SESSION_BYTES_MAX},
};
use evenkeel_engine::{
    limiter::{LateBody, LimitRequest, UsageReport},
    prefix::PromptPrefix,
};
use evenkeel_proto::v1::{self as pb, AdmitRequest, Outcome as PbOutcome, Pool, SettleRequest};

/// Maximum length of a request id, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// Largest credible number of tokens. The sidecar ignores a report with a larger number.
const TOKENS_MAX: u64 = 1_000_000_000;
/// Maximum number of hashes of a prompt.
const PREFIX_HASHES_MAX: usize = 1024;
/// Largest number of answers that is counted. With [`TOKENS_MAX`] for each, they reach the largest amount of a limit.
const CHOICES_MAX: u64 = 1_000_000;

/// Decodes the attributes that limits use. [`shorten`] and [`clean`] repair text that a client may have chosen. An
/// error instead would let the request pass at a gateway that fails open.
pub(super) fn limit_request(request: AdmitRequest, pool: Pool) -> LimitRequest {
    let subject = request.subject.unwrap_or_default();
    let attributes = Attributes {
        consumer: name(subject.consumer),
        source_ip: subject.source_ip.parse().ok(),
        path: subject.path,
        headers: subject.headers,
        model: name(request.model),
        route: pool.route,
        cluster: pool.cluster,
        descriptors: subject.descriptors,
    };
    let body = RequestBody {
        prompt_bytes: request.prompt_bytes,
        max_output_tokens: request.max_output_tokens,
        choices: request.choices,
        generation: Generation::from_number(request.generation),
    };
    let session = shortened(request.session, SESSION_BYTES_MAX);
    LimitRequest { attributes, session, body: bounded(body) }
}

/// Decodes the beginning of the prompt. Hashes that do not fit their sizes are left out: the request can go on without, and
/// at a gateway that fails open, an error would let it pass.
pub(super) fn prefix(request: &mut AdmitRequest) -> PromptPrefix {
    let (mut hashes, mut bytes) = (take(&mut request.prefix_hashes), take(&mut request.prefix_bytes));
    if hashes.len() != bytes.len() || !bytes.is_sorted_by(|a, b| a < b) {
        hashes.clear();
    }
    hashes.truncate(PREFIX_HASHES_MAX);
    bytes.truncate(hashes.len());
    PromptPrefix { hashes, bytes, ..PromptPrefix::default() }
}

/// Limits a client's numbers to credible ones.
fn bounded(body: RequestBody) -> RequestBody {
    RequestBody {
        prompt_bytes: body.prompt_bytes.min(TOKENS_MAX),
        max_output_tokens: body.max_output_tokens.min(TOKENS_MAX),
        choices: body.choices.min(CHOICES_MAX),
        generation: body.generation,
    }
}

/// Decodes what a gateway read of a request's body after Admit.
pub(super) fn late_body(body: pb::RequestBody) -> LateBody {
    let size = RequestBody {
        prompt_bytes: body.prompt_bytes,
        max_output_tokens: body.max_output_tokens,
        choices: body.choices,
        generation: Generation::from_number(body.generation),
    };
    LateBody { model: name(body.model), body: bounded(size) }
}

/// Cleans the gateway's request id, as [`clean`] does.
pub(super) fn request_id(text: String) -> String {
    cleaned(text, REQUEST_ID_BYTES_MAX)
}

fn cleaned(text: String, bytes_max: usize) -> String {
    match clean(&text, bytes_max) {
        Cow::Borrowed(_) => text,
        Cow::Owned(clean) => clean,
    }
}

/// Shortens the name of a consumer or model, as [`shorten`] does.
pub(super) fn name(text: String) -> String {
    shortened(text, NAME_BYTES_MAX)
}

fn shortened(text: String, bytes_max: usize) -> String {
    match shorten(&text, bytes_max) {
        Cow::Borrowed(_) => text,
        Cow::Owned(short) => short,
    }
}

/// Decodes how a request ended and what its response reported.
pub(super) fn usage_report(request: &SettleRequest) -> UsageReport {
    let credible =
        |tokens: &&evenkeel_proto::v1::Tokens| tokens.input <= TOKENS_MAX && tokens.output <= TOKENS_MAX;
    let tokens = request.tokens.as_ref().filter(credible).map(|tokens| Tokens {
        input: tokens.input,
        output: tokens.output,
        cached_input: tokens.cached_input,
        reasoning: tokens.reasoning,
    });
    UsageReport {
        outcome: outcome(request.outcome()),
        tokens,
        is_final: request.tokens_final && tokens.is_some(),
        cached_input_stated: request.tokens.as_ref().is_some_and(|tokens| tokens.cached_input_stated),
        output_bytes: request.output_bytes.min(TOKENS_MAX),
        began: request.first_token_ms > 0,
        body_read: request.body_read,
        total_tokens: if request.total_tokens <= TOKENS_MAX { request.total_tokens } else { 0 },
        upgraded: request.upgraded,
        form_unknown: request.form_unknown,
        total_ms: request.total_ms,
    }
}

fn outcome(outcome: PbOutcome) -> Outcome {
    match outcome {
        PbOutcome::Unspecified => Outcome::Unknown,
        PbOutcome::Success => Outcome::Success,
        PbOutcome::ClientError => Outcome::ClientError,
        PbOutcome::ServerError => Outcome::ServerError,
        PbOutcome::UpstreamReset => Outcome::UpstreamReset,
        PbOutcome::ClientAbort => Outcome::ClientAbort,
        PbOutcome::Timeout => Outcome::Timeout,
        PbOutcome::NotSent => Outcome::NotSent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_client_is_never_an_error() {
        let request = AdmitRequest {
            model: format!("m\n\u{85}{}", "é".repeat(200)),
            session: "s".repeat(300),
            ..AdmitRequest::default()
        };
        let request = limit_request(request, Pool::default());
        assert!(
            request.attributes.model.starts_with("m\u{fffd}\u{fffd}é")
                && request.attributes.model.len() <= NAME_BYTES_MAX
        );
        assert_eq!(request.session.len(), SESSION_BYTES_MAX);
    }

    #[test]
    fn counts_that_are_not_credible_are_ignored() {
        let tokens = |input| Some(evenkeel_proto::v1::Tokens { input, ..Default::default() });
        let settle =
            |input| SettleRequest { tokens: tokens(input), tokens_final: true, ..Default::default() };
        let report = |input| usage_report(&settle(input));
        assert!(report(TOKENS_MAX).is_final);
        for input in [TOKENS_MAX + 1, 1 << 63, u64::MAX] {
            assert_eq!((report(input).tokens, report(input).is_final), (None, false));
        }
    }
}
