//! One call of the script `commit`: operations grouped as it takes them, and its answers handed back.

use std::{collections::HashMap, sync::Arc};

use evenkeel_domain::{HolderId, Roster, StoreError};
use evenkeel_telemetry::{Metrics, traces::StoreSpan};
use redis::Value;
use rmp::encode;

use super::{
    KEY_EXPIRY_MS,
    admission::{Kind, Op, PoolWork},
    script::{COMMIT, Call, Reply},
};

/// Operations by holder; within a holder settlements first.
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

    /// `{ addresses, weights, caps, holders, ties }`; see lua/commit.lua.
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(2048);
        let mut ties = Vec::new();
        let mut roster: Option<&Arc<Roster>> = None;
        for op in self.holders.iter().flat_map(|group| &group.admissions) {
            if let Kind::Admit { roster: r, tie, .. } = &op.kind {
                roster = Some(r);
                ties.push(*tie);
            }
        }
        // Writing to a Vec cannot fail.
        let _ = encode::write_array_len(&mut out, 5);
        encode_roster(roster.map_or(&Roster::default(), |roster| &**roster), &mut out);
        let _ = encode::write_array_len(&mut out, self.holders.len() as u32);
        for group in &self.holders {
            let _ = encode::write_array_len(&mut out, 3);
            let _ = encode::write_str(&mut out, group.holder.as_str());
            let count = group.settlements.len() + group.admissions.len();
            let _ = encode::write_array_len(&mut out, count as u32);
            for op in group.settlements.iter().chain(&group.admissions) {
                // As text: it is a field's name, and Lua writes numbers slowly.
                let _ = encode::write_str(&mut out, &op.lease.to_string());
            }
            let _ = encode::write_uint(&mut out, group.settlements.len() as u64);
        }
        let _ = encode::write_array_len(&mut out, ties.len() as u32);
        for tie in ties {
            let _ = encode::write_uint(&mut out, u64::from(tie));
        }
        out
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

/// Addresses, weights and caps; one number where it is the same for all.
fn encode_roster(roster: &Roster, out: &mut Vec<u8>) {
    let endpoints = roster.endpoints();
    let _ = encode::write_array_len(out, endpoints.len() as u32);
    for endpoint in endpoints {
        let _ = encode::write_str(out, &endpoint.address);
    }
    if endpoints.windows(2).all(|pair| pair[0].weight == pair[1].weight) {
        let _ = encode::write_f64(out, endpoints.first().map_or(1.0, |endpoint| endpoint.weight));
    } else {
        let _ = encode::write_array_len(out, endpoints.len() as u32);
        for endpoint in endpoints {
            let _ = encode::write_f64(out, endpoint.weight);
        }
    }
    if endpoints.windows(2).all(|pair| pair[0].cap == pair[1].cap) {
        let _ = encode::write_uint(out, endpoints.first().map_or(0, |endpoint| u64::from(endpoint.cap)));
    } else {
        let _ = encode::write_array_len(out, endpoints.len() as u32);
        for endpoint in endpoints {
            let _ = encode::write_uint(out, u64::from(endpoint.cap));
        }
    }
}

impl Op {
    /// Reads this operation's answer and hands it to its caller. One that has gone away does not wait for it; its
    /// holder's KeepAlive mends the rest.
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
