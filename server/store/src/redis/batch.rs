//! Makes one call to the script `commit`: groups the operations as the script expects, and delivers the script's
//! answers.

use std::{collections::HashMap, sync::Arc};

use evenkeel_domain::{HolderId, Roster, StoreError};
use evenkeel_telemetry::{Metrics, traces::StoreSpan};
use redis::Value;
use serde::Serialize;

use super::{
    KEY_EXPIRY_MS,
    call::{Call, Reply, pack},
    operation::{Kind, Op, PoolWork},
    script::COMMIT,
};

/// Operations by holder. For each holder, settlements come first.
pub(super) struct Batch {
    holders: Vec<Group>,
}

struct Group {
    holder: HolderId,
    settlements: Vec<Op>,
    admissions: Vec<Op>,
}

impl Batch {
    pub(super) fn new(ops: Vec<Op>) -> Self {
        let mut holders: Vec<Group> = Vec::new();
        let mut index_of: HashMap<HolderId, usize> = HashMap::new();
        for op in ops {
            let index = *index_of.entry(op.holder.clone()).or_insert_with(|| {
                let holder = op.holder.clone();
                holders.push(Group { holder, settlements: Vec::new(), admissions: Vec::new() });
                holders.len() - 1
            });
            match op.kind {
                Kind::Settle { .. } => holders[index].settlements.push(op),
                Kind::Admit { .. } => holders[index].admissions.push(op),
            }
        }
        Self { holders }
    }

    pub(super) fn call(&self, lane: &PoolWork) -> Call {
        let leases: Vec<String> = self.holders.iter().map(|group| lane.keys.leases(&group.holder)).collect();
        let keys: Vec<&str> = [lane.keys.in_flight.as_str(), lane.keys.holders.as_str()]
            .into_iter()
            .chain(leases.iter().map(String::as_str))
            .collect();
        let mut call = Call::new(&COMMIT, &keys);
        call.number(lane.shared.holder_ttl_ms).number(KEY_EXPIRY_MS);
        call.arg(if lane.pool.higress_table { "0" } else { "1" });
        call.bytes(&self.encode());
        call
    }

    /// Returns the batch as lua/commit.lua expects it: addresses, weights, caps, holders, ties.
    fn encode(&self) -> Vec<u8> {
        let mut ties = Vec::new();
        let mut roster: Option<&Roster> = None;
        for op in self.holders.iter().flat_map(|group| &group.admissions) {
            if let Kind::Admit { roster: r, tie, .. } = &op.kind {
                roster = Some(r);
                ties.push(*tie);
            }
        }
        let endpoints = roster.map_or(&[][..], Roster::endpoints);
        let addresses: Vec<&str> = endpoints.iter().map(|endpoint| &*endpoint.address).collect();
        let weights = PerEndpoint::of(endpoints.iter().map(|endpoint| endpoint.weight), 1.0);
        let caps = PerEndpoint::of(endpoints.iter().map(|endpoint| endpoint.cap), 0);
        let holders: Vec<(&str, Vec<String>, usize)> = self
            .holders
            .iter()
            .map(|group| {
                let ops = group.settlements.iter().chain(&group.admissions);
                // Leases are sent as texts: the script uses them as field names, and Lua formats numbers slowly.
                let leases = ops.map(|op| op.lease.to_string()).collect();
                (group.holder.as_str(), leases, group.settlements.len())
            })
            .collect();
        pack(&(addresses, weights, caps, holders, ties))
    }

    pub(super) fn deliver(self, mut reply: Reply, metrics: &Metrics) {
        match (reply.integer(), reply.count()) {
            (Ok(_now), Ok(clamped)) => metrics.repairs.clamped.inc_by(clamped),
            (Err(error), _) | (_, Err(error)) => return self.fail(&error),
        }
        let mut admissions = Vec::new();
        for group in self.holders {
            for op in group.settlements {
                op.deliver(&mut reply);
            }
            admissions.extend(group.admissions);
        }
        for op in admissions {
            op.deliver(&mut reply);
        }
    }

    pub(super) fn fail(self, error: &StoreError) {
        for group in self.holders {
            group.settlements.into_iter().chain(group.admissions).for_each(|op| op.fail(error));
        }
    }
}

/// A number for each endpoint, or a single number if it is equal for all endpoints.
#[derive(Serialize)]
#[serde(untagged)]
enum PerEndpoint<T> {
    Same(T),
    Each(Vec<T>),
}

impl<T: Copy + PartialEq> PerEndpoint<T> {
    fn of(mut numbers: impl Iterator<Item = T> + Clone, none: T) -> Self {
        let all = numbers.clone();
        let Some(first) = numbers.next() else { return Self::Same(none) };
        if numbers.all(|number| number == first) { Self::Same(first) } else { Self::Each(all.collect()) }
    }
}

impl Op {
    /// Reads this operation's answer and sends it to the caller. If the caller has stopped waiting, the holder's next
    /// KeepAlive repairs the table.
    fn deliver(self, reply: &mut Reply) {
        let value = reply.value();
        match self.kind {
            Kind::Admit { roster, answer, .. } => {
                let value = value.and_then(|value| choice(reply, &roster, value));
                StoreSpan::ended(self.span, value.as_ref().err());
                drop(answer.send(value));
            }
            Kind::Settle { answer } => {
                let value = value.and_then(|value| match value {
                    Value::Int(n) => Ok(n == 1),
                    other => Err(reply.corrupt(&other)),
                });
                StoreSpan::ended(self.span, value.as_ref().err());
                drop(answer.send(value));
            }
        }
    }

    pub(super) fn fail(self, error: &StoreError) {
        StoreSpan::ended(self.span, Some(error));
        match self.kind {
            Kind::Admit { answer, .. } => drop(answer.send(Err(error.clone()))),
            Kind::Settle { answer } => drop(answer.send(Err(error.clone()))),
        }
    }
}

fn choice(reply: &Reply, roster: &Roster, value: Value) -> Result<Option<Arc<str>>, StoreError> {
    match value {
        Value::Int(0) => Ok(None),
        Value::Int(n) => usize::try_from(n - 1)
            .ok()
            .and_then(|i| roster.endpoints().get(i))
            .map(|endpoint| Some(Arc::clone(&endpoint.address)))
            .ok_or_else(|| reply.corrupt(&Value::Int(n))),
        Value::BulkString(ref address) => match std::str::from_utf8(address) {
            Ok(address) => Ok(Some(address.into())),
            Err(_) => Err(reply.corrupt(&value)),
        },
        other => Err(reply.corrupt(&other)),
    }
}
