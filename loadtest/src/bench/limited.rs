//! Requests that limits and a quota apply to: what they cost beside requests that none applies to.

use evenkeel_proto::v1::{AdmitRequest, SettleRequest, Subject, Tokens};

/// Consumers, each counted apart.
const CONSUMERS: u64 = 1000;

/// Three limits of three algorithms and a quota, all by consumer; none is ever reached. Requests without a consumer
/// are under none of them.
pub(super) const CONFIG: &str = "
limits:
  - {name: requests, counts: requests, amount: 1000000000, per: 1m, key: [consumer]}
  - {name: tokens, counts: tokens, amount: 1000000000000, per: 1m, algorithm: token_bucket, key: [consumer]}
  - {name: output, counts: output_tokens, amount: 1000000000000, per: 1h, key: [consumer]}
quotas:
  - {name: credit, counts: tokens, kind: prepaid, default: 1000000000000}
";

/// An Admit of one of the consumers.
pub(super) fn admit(mut request: AdmitRequest) -> AdmitRequest {
    let consumer = format!("consumer-{}", request.lease % CONSUMERS);
    request.subject = Some(Subject { consumer, ..Subject::default() });
    request
}

/// A Settle that tells what was used.
pub(super) fn settle(mut request: SettleRequest) -> SettleRequest {
    request.tokens = Some(Tokens { input: 1000, output: 300, ..Tokens::default() });
    request.tokens_final = true;
    request
}
