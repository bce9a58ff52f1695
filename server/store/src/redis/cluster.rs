//! Keeps the map of a Redis Cluster's slots up to date.

use std::sync::Arc;

use redis::Value;
use tracing::warn;

use super::{
    access::Address,
    causes::Causes,
    node::Shared,
    routes::{Range, Routes},
};

/// Reads the slot map now, when a node is lost or redirects a call, and at intervals.
pub(super) async fn watch(routes: Arc<Routes>, seeds: Vec<Address>, shared: Arc<Shared>) {
    let mut failing: Option<Causes> = None;
    loop {
        match read(&routes, &seeds, &shared).await {
            Ok(ranges) => {
                failing = None;
                routes.adopt(&ranges);
            }
            Err(error) => {
                if failing.get_or_insert_default().is_new(&error) {
                    warn!(error, "cannot read the slots of the Redis Cluster: the sidecar tries again");
                }
            }
        }
        shared.wait_to_look(failing.is_some()).await;
    }
}

/// Asks one server after another, those with closed circuit breakers first, and then the configured ones.
async fn read(routes: &Routes, seeds: &[Address], shared: &Shared) -> Result<Vec<Range>, String> {
    let mut addresses: Vec<Address> = Vec::new();
    let known = routes.nodes();
    let usable = known.iter().filter(|node| node.is_usable()).map(|node| node.address());
    for address in usable.chain(seeds) {
        if !addresses.contains(address) {
            addresses.push(address.clone());
        }
    }
    let mut last = "no address".to_owned();
    for address in &addresses {
        match slots(address, shared).await {
            Ok(ranges) if !ranges.is_empty() => return Ok(ranges),
            Ok(_) => last = format!("{address}: no slot is assigned to a node"),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn slots(address: &Address, shared: &Shared) -> Result<Vec<Range>, String> {
    let mut connection = shared.access.connect(address).await.map_err(|error| error.to_string())?;
    let mut cmd = redis::cmd("CLUSTER");
    cmd.arg("SLOTS");
    let reply: Result<Value, _> = cmd.query_async(&mut connection).await;
    let reply = reply.map_err(|error| format!("{address}: {error}"))?;
    parse(reply, address).ok_or_else(|| format!("{address}: the reply to CLUSTER SLOTS is malformed"))
}

/// Reads `[[first, last, [host, port, ...], replicas ...], ...]`.
fn parse(reply: Value, asked: &Address) -> Option<Vec<Range>> {
    let Value::Array(rows) = reply else { return None };
    let range = |row: Value| {
        let Value::Array(row) = row else { return None };
        let mut row = row.into_iter();
        let (Value::Int(first), Value::Int(last), Value::Array(primary)) =
            (row.next()?, row.next()?, row.next()?)
        else {
            return None;
        };
        let mut primary = primary.into_iter();
        let (host, port) = (primary.next()?, primary.next()?);
        let host: String = match host {
            // The node does not know its own address: it is the one that the sidecar asked.
            Value::Nil => asked.host.to_string(),
            host => redis::from_redis_value(host).ok()?,
        };
        let host: Arc<str> = if host.is_empty() { Arc::clone(&asked.host) } else { host.into() };
        let Value::Int(port) = port else { return None };
        let address = Address { host, port: u16::try_from(port).ok()? };
        Some(Range { first: u16::try_from(first).ok()?, last: u16::try_from(last).ok()?, address })
    };
    let mut ranges = rows.into_iter().map(range).collect::<Option<Vec<Range>>>()?;
    ranges.sort_by_key(|range| range.first);
    Some(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_a_host_is_the_one_that_was_asked() {
        let asked = Address { host: "seed".into(), port: 1 };
        let text = |text: &str| Value::BulkString(text.into());
        let row = |first, last, host, port| {
            let node = Value::Array(vec![host, Value::Int(port), text("id"), Value::Array(Vec::new())]);
            Value::Array(vec![Value::Int(first), Value::Int(last), node.clone(), node])
        };
        let reply = Value::Array(vec![row(6, 16_383, text("b"), 2), row(0, 5, Value::Nil, 1)]);
        let ranges = parse(reply, &asked).unwrap();
        let shown: Vec<_> = ranges.iter().map(|r| (r.first, r.last, r.address.to_string())).collect();
        assert_eq!(shown, [(0, 5, "seed:1".to_owned()), (6, 16_383, "b:2".to_owned())]);
        assert_eq!(parse(Value::Array(vec![row(0, 70_000, text("b"), 2)]), &asked), None);
    }
}
