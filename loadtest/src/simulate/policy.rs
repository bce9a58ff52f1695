//! The policies of a simulation.

use std::sync::Arc;

use evenkeel_domain::{
    Endpoint, Roster,
    choice::{Load, Prompt, choose},
};
use rand::{Rng, rngs::SmallRng};
use serde::Serialize;

use super::{
    System,
    table::{InFlightRequest, Table},
};
use crate::{
    engine::Engine,
    prefixes::{self, HigressPrefix, Lifetime, PrefixIndex},
    workload::Request,
};

/// Blocks of a trace that the sidecar's index knows only together: its default is 4,096 bytes, or about 1,024 tokens.
const INDEX_BLOCKS: u32 = 2;
/// Blocks of a trace up to which the sidecar's index knows a prompt by default.
const INDEX_BLOCKS_MAX: u32 = 64 * INDEX_BLOCKS;

/// How a simulated gateway chooses the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SimulatedPolicy {
    /// Each gateway cycles through the hosts from a random start.
    RoundRobin,
    Random,
    /// Of two random hosts, the host with fewer requests from this gateway: Envoy's `LEAST_REQUEST`.
    LocalTwoChoices,
    /// The host with the fewest requests from this gateway.
    LocalLeast,
    /// The host with the fewest requests from all gateways together.
    GlobalLeast,
    /// Evenkeel's `least_work` without knowledge of prefix caches.
    GlobalWork,
    /// Evenkeel's `least_work` with an index of the prefixes that each host was assigned.
    IndexedWork,
    /// The rule of Higress's `prefix_cache`, with a bound on the load.
    HigressPrefix,
    /// Evenkeel's `least_work` with exact knowledge of the hosts' prefix caches.
    IdealWork,
}

impl SimulatedPolicy {
    pub const ALL: [Self; 9] = [
        Self::RoundRobin,
        Self::Random,
        Self::LocalTwoChoices,
        Self::LocalLeast,
        Self::GlobalLeast,
        Self::GlobalWork,
        Self::IndexedWork,
        Self::HigressPrefix,
        Self::IdealWork,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::Random => "random",
            Self::LocalTwoChoices => "local_p2c (Envoy's least_request)",
            Self::LocalLeast => "local_full_scan",
            Self::GlobalLeast => "global_least (ideal)",
            Self::GlobalWork => "global_work",
            Self::IndexedWork => "indexed_work",
            Self::HigressPrefix => "higress_prefix",
            Self::IdealWork => "ideal_work",
        }
    }
}

/// Chooses the gateway and the host of each request.
pub(super) struct Chooser {
    policy: SimulatedPolicy,
    rng: SmallRng,
    /// The next host of each gateway.
    next: Vec<usize>,
    /// The hosts by their number.
    roster: Roster,
    higress: HigressPrefix,
    index: PrefixIndex,
}

impl Chooser {
    pub(super) fn new(policy: SimulatedPolicy, system: &System, mut rng: SmallRng) -> Self {
        let next = (0..system.gateways).map(|_| rng.random_range(0..system.hosts)).collect();
        let endpoint = |host| Endpoint { address: address(host), weight: 1.0, cap: 0 };
        let roster = Roster::new((0..system.hosts).map(endpoint).collect());
        let lifetime = Lifetime::AssignedTokens(system.engine.cache_tokens);
        let index = PrefixIndex::new(system.hosts, lifetime);
        Self { policy, rng, next, roster, higress: HigressPrefix::new(system.hosts), index }
    }

    pub(super) fn choose(&mut self, request: &Request, table: &Table, engines: &[Engine]) -> InFlightRequest {
        let hosts = engines.len();
        let gateway = self.rng.random_range(0..self.next.len());
        let local = &table.local[gateway];
        let (host, unread) = match self.policy {
            SimulatedPolicy::RoundRobin => {
                self.next[gateway] = (self.next[gateway] + 1) % hosts;
                (self.next[gateway], 0)
            }
            SimulatedPolicy::Random => (self.rng.random_range(0..hosts), 0),
            SimulatedPolicy::LocalTwoChoices => {
                let (a, b) = (self.rng.random_range(0..hosts), self.rng.random_range(0..hosts));
                (if local[b] < local[a] { b } else { a }, 0)
            }
            SimulatedPolicy::LocalLeast => {
                self.least(None, |host| Load { in_flight: local[host].into(), unread: 0 })
            }
            SimulatedPolicy::GlobalLeast => self.least(None, |host| table.global[host]),
            SimulatedPolicy::GlobalWork => {
                let prompt = Prompt { tokens: request.prompt.into(), cached: Vec::new() };
                self.least(Some(&prompt), |host| table.global[host])
            }
            SimulatedPolicy::IndexedWork => {
                let blocks = &request.cache_blocks();
                let matched = self.index.matched(blocks, request.at).into_iter().enumerate();
                let known = |blocks: u32| (blocks / INDEX_BLOCKS * INDEX_BLOCKS).min(INDEX_BLOCKS_MAX);
                let cached = matched.map(|(host, blocks)| (address(host), prefixes::tokens(known(blocks))));
                let prompt = Prompt { tokens: request.prompt.into(), cached: cached.collect() };
                let (host, unread) = self.least(Some(&prompt), |host| table.global[host]);
                self.index.record(host, blocks, unread, request.at);
                (host, unread)
            }
            SimulatedPolicy::HigressPrefix => {
                let in_flight: Vec<u64> = table.global.iter().map(|load| load.in_flight).collect();
                let Request { prompt, at, .. } = *request;
                let blocks = &request.cache_blocks();
                (self.higress.choose(&in_flight, prompt, blocks, at, &mut self.rng), 0)
            }
            SimulatedPolicy::IdealWork => {
                let blocks = &request.cache_blocks();
                let cached = engines.iter().enumerate();
                let cached = cached.map(|(host, engine)| (address(host), engine.expected_cached(blocks)));
                let prompt = Prompt { tokens: request.prompt.into(), cached: cached.collect() };
                self.least(Some(&prompt), |host| table.global[host])
            }
        };
        InFlightRequest { gateway, host, unread, ..InFlightRequest::default() }
    }

    /// Applies Evenkeel's rule. Returns the host and the tokens that it must read.
    fn least(&mut self, prompt: Option<&Prompt>, load: impl Fn(usize) -> Load) -> (usize, u64) {
        let host = |address: &str| self.roster.index_of(address).unwrap_or_default();
        let choice = choose(&self.roster, self.rng.random(), prompt, |address| load(host(address)));
        choice.map_or((0, 0), |choice| (host(&choice.endpoint.address), choice.unread))
    }
}

/// Returns the address of a host. Addresses sort by the hosts' numbers.
fn address(host: usize) -> Arc<str> {
    format!("{host:08}").into()
}
