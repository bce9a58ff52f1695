//! The options `prefix_cache` and `affinity` of pools, and the section `prefix_index`.

use evenkeel_domain::{
    choice::PROMPT_TOKENS_MAX,
    settings::{Policy, PrefixCache, PromptBlocks, SessionAffinity},
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::check::Check;

/// The prefix caches of the pool's endpoints.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPrefixCache {
    /// Tokens that the prefix cache of an endpoint holds: the number of its KV blocks times the tokens of a block. It is
    /// the first assumption. If responses report cached tokens, the sidecar learns how long endpoints remember prefixes.
    #[schemars(range(min = 4096, max = 1_000_000_000), extend("default" = 1_000_000))]
    tokens: Option<u64>,
    /// Whether only requests of the same consumer share prefixes. With `false`, a consumer can find out from the time to
    /// the first token whether others have sent a certain prompt, as at any server with a shared prefix cache.
    per_consumer: bool,
}

/// How the requests of a session stay together.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAffinity {
    /// `soft`: the endpoint of the session's latest request gets a better score. Requires `policy: least_work`. `hard`:
    /// the request goes to this endpoint as long as it is in the pool, not drained, and below its cap.
    session: RawStickiness,
    /// With `soft`: how many tokens of the prompt the endpoint counts as having in its cache.
    #[serde(default)]
    #[schemars(range(min = 1, max = 16_777_216), extend("default" = 2000))]
    tokens: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum RawStickiness {
    Soft,
    Hard,
}

/// How prompts are divided to find common prefixes, and how many prefixes the sidecar remembers.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPrefixIndex {
    /// Bytes of a block of a prompt. Prompts share their blocks up to the first difference. Smaller blocks find shorter
    /// common prefixes, and cost more memory and CPU. All sidecars that share a Redis need the same value.
    #[schemars(range(min = 256, max = 65536), extend("default" = 4096))]
    block_bytes: Option<u32>,
    /// Maximum number of blocks that are compared of one prompt. The product with `block_bytes` is the longest prefix
    /// that the sidecar knows.
    #[schemars(range(min = 1, max = 1024), extend("default" = 64))]
    hashes_max: Option<u32>,
    /// Maximum number of blocks that the sidecar remembers for each pool; each takes about 60 bytes of memory. The
    /// least recently used are forgotten.
    #[schemars(range(min = 1024, max = 16_777_216), extend("default" = 262_144))]
    entries_max: Option<usize>,
}

impl RawPrefixIndex {
    pub(super) fn blocks(&self, check: &mut Check) -> PromptBlocks {
        let (bytes, hashes_max) = (self.block_bytes.unwrap_or(4096), self.hashes_max.unwrap_or(64));
        check.within("prefix_index.block_bytes", bytes, 256..=65536);
        check.within("prefix_index.hashes_max", hashes_max, 1..=1024);
        PromptBlocks { bytes, hashes_max }
    }

    pub(super) fn entries_max(&self, check: &mut Check) -> usize {
        let entries_max = self.entries_max.unwrap_or(PrefixCache::default().entries_max);
        check.within("prefix_index.entries_max", entries_max, 1024..=16_777_216);
        entries_max
    }
}

pub(super) fn prefix_cache(
    check: &mut Check,
    path: &str,
    policy: Option<Policy>,
    raw: Option<RawPrefixCache>,
    entries_max: usize,
) -> Option<PrefixCache> {
    let RawPrefixCache { tokens, per_consumer } = raw?;
    if policy != Some(Policy::LeastWork) {
        let expected = "absent unless policy is least_work: least_request does not consider prompts";
        check.fault(&format!("{path}.prefix_cache"), expected, "given");
    }
    let tokens = tokens.unwrap_or(PrefixCache::default().tokens);
    check.within(&format!("{path}.prefix_cache.tokens"), tokens, 4096..=1_000_000_000);
    Some(PrefixCache { tokens, per_consumer, entries_max })
}

pub(super) fn session_affinity(
    check: &mut Check,
    path: &str,
    policy: Option<Policy>,
    raw: Option<RawAffinity>,
) -> Option<SessionAffinity> {
    let RawAffinity { session, tokens } = raw?;
    if session == RawStickiness::Hard {
        if let Some(tokens) = tokens {
            check.fault(&format!("{path}.affinity.tokens"), "absent if session is hard", tokens);
        }
        return Some(SessionAffinity::Hard);
    }
    if policy != Some(Policy::LeastWork) {
        let expected = "hard unless policy is least_work: least_request does not consider tokens";
        check.fault(&format!("{path}.affinity.session"), expected, "soft");
    }
    let tokens = tokens.unwrap_or(2000);
    check.within(&format!("{path}.affinity.tokens"), tokens, 1..=PROMPT_TOKENS_MAX);
    Some(SessionAffinity::Soft { tokens })
}
