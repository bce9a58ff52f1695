//! Converts enums of the domain to enums of the API.

use evenkeel_domain::{activity::StoreKind as Kind, limit};
use evenkeel_proto::v1::{self as pb, StoreKind};

pub(crate) fn store_kind(kind: Kind) -> StoreKind {
    match kind {
        Kind::Memory => StoreKind::Memory,
        Kind::Redis => StoreKind::Redis,
        Kind::RedisCluster => StoreKind::RedisCluster,
    }
}

pub(crate) fn counts(counts: limit::Counts) -> pb::Counts {
    match counts {
        limit::Counts::Requests => pb::Counts::Requests,
        limit::Counts::Tokens => pb::Counts::Tokens,
        limit::Counts::InputTokens => pb::Counts::InputTokens,
        limit::Counts::OutputTokens => pb::Counts::OutputTokens,
        limit::Counts::Cost => pb::Counts::Cost,
    }
}
