//! The drained endpoints of every pool, as of one version.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, LazyLock},
};

use evenkeel_domain::PoolId;
use evenkeel_store::drains::{DRAINS_MAX, Drain};

type Addresses = Arc<HashSet<Box<str>>>;

static NONE: LazyLock<Addresses> = LazyLock::new(Addresses::default);

/// The drained endpoints by pool.
#[derive(Debug, Default)]
pub(super) struct Drained {
    everywhere: Addresses,
    of: HashMap<PoolId, Addresses>,
}

impl Drained {
    pub(super) fn new(list: &[Drain]) -> Self {
        let mut everywhere = HashSet::new();
        let mut of: HashMap<PoolId, HashSet<Box<str>>> = HashMap::new();
        for Drain { endpoint, pool, .. } in list.iter().take(DRAINS_MAX) {
            match pool {
                Some(pool) => of.entry(pool.clone()).or_default(),
                None => &mut everywhere,
            }
            .insert(endpoint.as_str().into());
        }
        let of = of.into_iter().map(|(pool, addresses)| (pool, Arc::new(addresses))).collect();
        Self { everywhere: Arc::new(everywhere), of }
    }

    /// Returns the drains that apply to one pool.
    pub(super) fn of(&self, pool: &PoolId) -> PoolDrains {
        let here = self.of.get(pool).unwrap_or(&NONE);
        PoolDrains { everywhere: Arc::clone(&self.everywhere), here: Arc::clone(here) }
    }
}

/// The drained endpoints of one pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PoolDrains {
    everywhere: Addresses,
    here: Addresses,
}

impl PoolDrains {
    pub(super) fn has(&self, address: &str) -> bool {
        self.everywhere.contains(address) || self.here.contains(address)
    }

    pub(super) fn any(&self) -> bool {
        !self.everywhere.is_empty() || !self.here.is_empty()
    }
}
