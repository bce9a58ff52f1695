//! Applies holders' lists to the table, and reads holders' leases.
//!
//! A short list is one atomic call. A long list takes steps, with others' calls in between, so that it does not hold Redis.
//! The first steps restore and move leases that the list has. Then the sidecar reads the table's leases page by page, and
//! further steps drop those that the list lacks. Each step is exact whatever happens in between: it looks at the current
//! state of each lease that it names. As with a short list, it does not touch leases that the holder has issued since.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering},
};

use evenkeel_domain::{HolderId, LeaseId, StoreError};
use redis::Value;

use super::{
    KEY_EXPIRY_MS, RedisStore,
    batch::lease_of,
    call::Call,
    keys::PoolKeys,
    link::Way,
    script::{DROP, HOLD, KEEP_ALIVE, Script},
};
use crate::{Held, HeldLease, Lease, Pool, Repairs, RestoreBounds};

/// Maximum number of leases in one call. A call takes about 4 µs for each.
pub(super) const STEP: usize = 1000;

impl RedisStore {
    pub(super) async fn apply_list(
        &self,
        pool: &Arc<Pool>,
        holder: &HolderId,
        held: &Held,
    ) -> Result<Repairs, StoreError> {
        let step = self.list_step.load(Ordering::Relaxed);
        let lane = self.lane(pool);
        let keys = &lane.work.keys;
        if held.leases.len() <= step {
            let list: Vec<&HeldLease> = held.leases.iter().collect();
            let mut call = self.list_call(&KEEP_ALIVE, keys, pool, holder);
            call.number(held.bounds.leases_max);
            let index_of = add_addresses(&mut call, &list, &held.bounds);
            call.number(held.issued_through).number(step);
            add_leases(&mut call, &list, &index_of);
            let mut reply = self.shared.client.run(&call, Way::Beside).await?;
            reply.integer()?;
            if let Ok(restored) = u64::try_from(reply.integer()?) {
                let (dropped, moved, refused) = (reply.count()?, reply.count()?, reply.count()?);
                return Ok(Repairs { restored, dropped, moved, refused });
            }
        }
        let listed: BTreeMap<LeaseId, &HeldLease> =
            held.leases.iter().map(|lease| (lease.id, lease)).collect();
        let mut repairs = Repairs::default();
        let all: Vec<&HeldLease> = listed.values().copied().collect();
        // An empty list has one step too, which renews the holder.
        let steps = if all.is_empty() { vec![&all[..]] } else { all.chunks(step).collect() };
        for part in steps {
            let mut call = self.list_call(&HOLD, keys, pool, holder);
            call.number(held.bounds.leases_max.saturating_sub(repairs.restored));
            let index_of = add_addresses(&mut call, part, &held.bounds);
            add_leases(&mut call, part, &index_of);
            let mut reply = self.shared.client.run(&call, Way::Beside).await?;
            reply.integer()?;
            let (restored, moved, refused) = (reply.count()?, reply.count()?, reply.count()?);
            repairs += Repairs { restored, dropped: 0, moved, refused };
        }
        let leases = keys.leases(holder);
        let mut cursor = "0".to_owned();
        loop {
            let page;
            (cursor, page) = self.scan(&leases, &cursor, step).await?;
            // The field '' is filler; see docs/redis-layout.md.
            let superfluous = page.into_keys().filter(|lease| {
                let id = lease.parse().ok().and_then(|number| LeaseId::new(number).ok());
                id.is_some_and(|id| id.get() <= held.issued_through && !listed.contains_key(&id))
            });
            let superfluous: Vec<String> = superfluous.collect();
            for part in superfluous.chunks(step) {
                let mut call = Call::new(&DROP, &[&keys.loads()[..], &[&leases]].concat());
                for lease in part {
                    call.arg(lease);
                }
                let mut reply = self.shared.client.run(&call, Way::Beside).await?;
                reply.integer()?;
                repairs.dropped += reply.count()?;
            }
            if cursor == "0" {
                return Ok(repairs);
            }
        }
    }

    /// Returns the beginning of a call about a holder's list.
    fn list_call(&self, script: &'static Script, keys: &PoolKeys, pool: &Pool, holder: &HolderId) -> Call {
        let leases = keys.leases(holder);
        let mut call = Call::new(script, &[&keys.loads()[..], &[&keys.holders, &leases]].concat());
        call.number(self.shared.holder_ttl_ms).number(KEY_EXPIRY_MS);
        call.arg(if pool.higress_table { "0" } else { "1" }).arg(holder.as_str());
        call
    }

    /// Reads about `count` fields of a hash. Returns the cursor of the next page, which is "0" after the last.
    async fn scan(
        &self,
        key: &str,
        cursor: &str,
        count: usize,
    ) -> Result<(String, HashMap<String, String>), StoreError> {
        let mut scan = redis::cmd("HSCAN");
        scan.arg(key).arg(cursor).arg("COUNT").arg(count);
        let value: Value = self.command("leases", &scan).await?;
        redis::from_redis_value(value).map_err(|error| corrupt(error.to_string()))
    }

    /// Returns all leases of a holder, sorted by lease number.
    pub(super) async fn read_leases(
        &self,
        pool: &Arc<Pool>,
        holder: &HolderId,
    ) -> Result<Vec<Lease>, StoreError> {
        let key = self.lane(pool).work.keys.leases(holder);
        // HSCAN may return a lease twice.
        let (mut leases, mut cursor) = (BTreeMap::new(), "0".to_owned());
        loop {
            let page;
            (cursor, page) = self.scan(&key, &cursor, STEP).await?;
            // The field '' is filler; see docs/redis-layout.md.
            for (lease, value) in page.iter().filter(|(lease, _)| !lease.is_empty()) {
                let lease =
                    parse(lease, value).ok_or_else(|| corrupt("a lease of another layout".to_owned()))?;
                leases.insert(lease.id, lease);
            }
            if cursor == "0" {
                return Ok(leases.into_values().collect());
            }
        }
    }
}

/// Adds the number of addresses, and each address with the count up to which leases on it are restored. Returns the index
/// of each address, from 1.
fn add_addresses<'a>(
    call: &mut Call,
    list: &[&'a HeldLease],
    bounds: &RestoreBounds,
) -> HashMap<&'a str, usize> {
    let mut addresses: Vec<&str> = Vec::new();
    let mut index_of: HashMap<&str, usize> = HashMap::new();
    for address in list.iter().filter_map(|lease| lease.endpoint.as_deref()) {
        index_of.entry(address).or_insert_with(|| {
            addresses.push(address);
            addresses.len()
        });
    }
    call.number(addresses.len());
    for address in addresses {
        call.arg(address);
        match bounds.counts_max.get(address) {
            Some(most) => call.number(most),
            None => call.number(-1),
        };
    }
    index_of
}

/// Adds the leases, each with the index of its address and, if there are any, its unread tokens.
fn add_leases(call: &mut Call, list: &[&HeldLease], index_of: &HashMap<&str, usize>) {
    for HeldLease { id, endpoint, unread } in list {
        let index = endpoint.as_deref().map_or(0, |address| index_of[address]);
        call.number(id);
        match unread {
            0 => call.number(index),
            _ => call.number(format_args!("{index};{unread}")),
        };
    }
}

fn parse(lease: &str, value: &str) -> Option<Lease> {
    let (ms, rest) = value.split_at_checked(13)?;
    let (endpoint, unread) = lease_of(rest)?;
    let id = LeaseId::new(lease.parse().ok()?).ok()?;
    Some(Lease { id, endpoint, since_ms: ms.parse().ok()?, unread })
}

fn corrupt(detail: String) -> StoreError {
    StoreError::Corrupt { script: "leases", detail }
}
