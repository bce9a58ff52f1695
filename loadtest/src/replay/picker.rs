//! The central policies: the generator chooses hosts from one table of all requests in flight, by Evenkeel's rules or by
//! Higress's.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use evenkeel_domain::{
    Endpoint, Roster,
    choice::{Load, Prompt, choose},
};
use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::SmallRng};

use crate::{
    prefixes::HigressPrefix,
    workload::{Request, prompt},
};

/// Knows the prefix caches of all hosts.
pub trait PrefixCaches: fmt::Debug + Send + Sync {
    /// Returns for each host how many tokens of a prompt with these blocks ([`prompt::block_hashes`]) it has, or will have
    /// read before.
    fn expected_cached(&self, blocks: &[u64]) -> Vec<u64>;
}

/// What the generator knows beside its requests in flight.
#[derive(Clone, Debug)]
pub enum IdealRule {
    /// It chooses the host with the fewest requests in flight.
    LeastRequest,
    /// It chooses by work, and knows these caches.
    LeastWork(Arc<dyn PrefixCaches>),
    /// It chooses by prefixes, and knows which host got which.
    HigressPrefix,
}

/// Chooses hosts. Breaks ties at random.
#[derive(Debug)]
pub struct Picker {
    rule: IdealRule,
    /// In the order of the caches.
    hosts: Vec<SocketAddr>,
    /// For each endpoint of the roster, its index in `hosts`.
    indices: Vec<usize>,
    roster: Roster,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    /// In the order of the roster.
    loads: Vec<Load>,
    higress: HigressPrefix,
    rng: SmallRng,
}

/// A chosen host. The request counts as in flight until the pick is dropped.
#[derive(Debug)]
pub struct Pick {
    picker: Arc<Picker>,
    /// Index in the roster.
    index: usize,
    /// Prompt tokens that the host must read; 0 after the first token.
    unread: AtomicU64,
}

impl Picker {
    pub fn new(hosts: Vec<SocketAddr>, rule: IdealRule, seed: u64) -> Self {
        let endpoint = |host: &SocketAddr| Endpoint { address: host.to_string().into(), weight: 1.0, cap: 0 };
        let roster = Roster::new(hosts.iter().map(endpoint).collect());
        let index = |endpoint: &Endpoint| {
            hosts.iter().position(|host| host.to_string() == *endpoint.address).unwrap_or_default()
        };
        let indices: Vec<usize> = roster.endpoints().iter().map(index).collect();
        let table = Table {
            loads: vec![Load::default(); indices.len()],
            higress: HigressPrefix::new(indices.len()),
            rng: SmallRng::seed_from_u64(seed),
        };
        Self { rule, hosts, indices, roster, table: Mutex::new(table) }
    }

    /// Chooses a host for a request with this text, and adds the request to its load.
    pub fn pick(self: &Arc<Self>, request: &Request, text: &[u8]) -> Pick {
        let (index, unread) = match &self.rule {
            IdealRule::LeastRequest => self.least(None),
            IdealRule::LeastWork(caches) => self.least(Some(&self.prompt(&**caches, request, text))),
            IdealRule::HigressPrefix => (self.by_prefix(request, text), 0),
        };
        Pick { picker: Arc::clone(self), index, unread: unread.into() }
    }

    /// Chooses by Evenkeel's rule. Returns the index of the host, and the tokens that it must read.
    fn least(&self, prompt: Option<&Prompt>) -> (usize, u64) {
        let mut table = self.table.lock();
        let Table { loads, rng, .. } = &mut *table;
        let index = |address: &str| self.roster.index_of(address).unwrap_or_default();
        let choice = choose(&self.roster, rng.random(), prompt, |address| loads[index(address)]);
        let (index, unread) =
            choice.map_or((0, 0), |choice| (index(&choice.endpoint.address), choice.unread));
        loads[index] += Load { in_flight: 1, unread };
        (index, unread)
    }

    fn by_prefix(&self, request: &Request, text: &[u8]) -> usize {
        let blocks = hashes(request, text);
        let mut table = self.table.lock();
        let Table { loads, higress, rng } = &mut *table;
        let in_flight: Vec<u64> = loads.iter().map(|load| load.in_flight).collect();
        let index = higress.choose(&in_flight, request.prompt, &blocks, request.at, rng);
        loads[index].in_flight += 1;
        index
    }

    /// Returns what the rule needs to know of a prompt.
    fn prompt(&self, caches: &dyn PrefixCaches, request: &Request, text: &[u8]) -> Prompt {
        let by_host = caches.expected_cached(&hashes(request, text));
        let endpoints = self.roster.endpoints().iter().zip(&self.indices);
        let cached = endpoints
            .map(|(endpoint, index)| (endpoint.address.clone(), by_host.get(*index).copied().unwrap_or(0)));
        Prompt { tokens: request.prompt.into(), cached: cached.collect() }
    }
}

/// Returns the hashes of a request's blocks, as the hosts compute them.
fn hashes(request: &Request, text: &[u8]) -> Vec<u64> {
    prompt::block_hashes(&prompt::model_name(request.model), text)
}

impl Pick {
    pub fn host(&self) -> SocketAddr {
        self.picker.hosts[self.picker.indices[self.index]]
    }

    /// Records that the host has read the prompt.
    pub fn first_token(&self) {
        let unread = self.unread.swap(0, Ordering::Relaxed);
        self.picker.table.lock().loads[self.index].unread -= unread;
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        self.first_token();
        self.picker.table.lock().loads[self.index].in_flight -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hosts' addresses do not sort as text in the order of the hosts.
    fn hosts() -> Vec<SocketAddr> {
        [900, 1000, 80, 70].map(|port| SocketAddr::from(([127, 0, 0, 1], port))).into()
    }

    fn request(prompt: u32) -> Request {
        Request { prompt, ..Request::default() }
    }

    fn loads(picker: &Picker) -> Vec<(u64, u64)> {
        picker.table.lock().loads.iter().map(|load| (load.in_flight, load.unread)).collect()
    }

    #[test]
    fn picks_equalize_the_counts() {
        let picker = Arc::new(Picker::new(hosts(), IdealRule::LeastRequest, 1));
        let mut picks: Vec<_> = (0..8).map(|_| picker.pick(&request(1000), b"")).collect();
        assert_eq!(loads(&picker), [(2, 0); 4]);
        let freed = picks.swap_remove(3).host();
        assert_eq!(picker.pick(&request(1000), b"").host(), freed);
        drop(picks);
        assert_eq!(loads(&picker), [(0, 0); 4]);
    }

    /// The second host has 2,000 tokens of each prompt.
    #[derive(Debug)]
    struct Second;

    impl PrefixCaches for Second {
        fn expected_cached(&self, _: &[u64]) -> Vec<u64> {
            vec![0, 2000, 0, 0]
        }
    }

    #[test]
    fn picks_by_work_follow_the_caches_until_others_have_less_to_read() {
        let picker = Arc::new(Picker::new(hosts(), IdealRule::LeastWork(Arc::new(Second)), 1));
        let first = picker.pick(&request(3000), b"");
        assert_eq!(first.host(), hosts()[1]);
        // 1,000 tokens wait there, which the cached tokens outweigh twice; the third prompt finds 4,000 and 400 more.
        let picks: Vec<_> = (0..3).map(|_| picker.pick(&request(3000), b"")).collect();
        assert_eq!(picks.iter().filter(|pick| pick.host() == hosts()[1]).count(), 3);
        let other = picker.pick(&request(3000), b"");
        assert_ne!(other.host(), hosts()[1]);
        first.first_token();
        first.first_token();
        drop(first);
        assert_eq!(loads(&picker).iter().map(|load| load.1).sum::<u64>(), 3 * 1000 + 3000);
        drop((picks, other));
        assert_eq!(loads(&picker), [(0, 0); 4]);
    }

    #[test]
    fn picks_by_prefix_follow_earlier_picks() {
        let picker = Arc::new(Picker::new(hosts(), IdealRule::HigressPrefix, 1));
        let body = |blocks: [u64; 5]| {
            let request = Request { prompt: 2560, blocks: blocks.into(), ..Request::default() };
            prompt::chat_request(&request, 0)
        };
        let pick = |body: &[u8]| picker.pick(&request(2560), prompt::text(body));
        let first = pick(&body([1, 2, 3, 4, 5]));
        let other = pick(&body([6, 7, 8, 9, 10]));
        assert_ne!(first.host(), other.host());
        let host = first.host();
        drop(first);
        assert_eq!(pick(&body([1, 2, 3, 4, 6])).host(), host);
        drop(other);
        assert_eq!(loads(&picker), [(0, 0); 4]);
    }
}
