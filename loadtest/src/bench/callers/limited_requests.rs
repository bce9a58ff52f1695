//! Requests to which limits and a quota apply.

use evenkeel_proto::v1::{AdmitRequest, SettleRequest, Subject, Tokens};

/// Number of consumers. Each consumer has its own counters.
const CONSUMERS: u64 = 1000;

/// Three limits and a quota per consumer. No run reaches them, and they do not apply to requests without a consumer.
pub(crate) const CONFIG: &str = "
limits:
  - {name: requests, counts: requests, amount: 1000000000, per: 1m, key: [consumer]}
  - {name: tokens, counts: tokens, amount: 1000000000000, per: 1m, algorithm: token_bucket, key: [consumer]}
  - {name: output, counts: output_tokens, amount: 1000000000000, per: 1h, key: [consumer]}
quotas:
  - {name: credit, counts: tokens, kind: prepaid, default: 1000000000000}
";

/// Assigns an Admit to one of the consumers.
pub(crate) fn with_consumer(mut request: AdmitRequest) -> AdmitRequest {
    let consumer = format!("consumer-{}", request.lease % CONSUMERS);
    request.subject = Some(Subject { consumer, ..Subject::default() });
    request
}

/// Adds the token usage to a Settle.
pub(crate) fn with_usage(mut request: SettleRequest) -> SettleRequest {
    request.tokens = Some(Tokens { input: 1000, output: 300, ..Tokens::default() });
    request.tokens_final = true;
    request
}
