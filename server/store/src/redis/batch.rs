//! Makes one call to the script `commit`: groups the operations as the script expects, and delivers the script's
//! answers.

use std::{collections::HashMap, sync::Arc};

use evenkeel_domain::{HolderId, Roster, StoreError, choice::Prompt};
use evenkeel_telemetry::{Metrics, traces::StoreSpan};
use redis::Value;
use serde::Serialize;

use super::{
    KEY_EXPIRY_MS,
    call::{Call, Reply, pack},
    operation::{Kind, Op, Picked, PoolWork},
    script::COMMIT,
};

/// Operations by holder. For each holder, settlements come first, then first tokens.
pub(super) struct Batch {
    holders: Vec<Group>,
}

struct Group {
    holder: HolderId,
    settlements: Vec<Op>,
    first_tokens: Vec<Op>,
    admissions: Vec<Op>,
}

impl Batch {
    pub(super) fn new(ops: Vec<Op>) -> Self {
        let mut holders: Vec<Group> = Vec::new();
        let mut index_of: HashMap<HolderId, usize> = HashMap::new();
        for op in ops {
            let index = *index_of.entry(op.holder.clone()).or_insert_with(|| {
                let holder = op.holder.clone();
                holders.push(Group {
                    holder,
                    settlements: Vec::new(),
                    first_tokens: Vec::new(),
                    admissions: Vec::new(),
                });
                holders.len() - 1
            });
            match op.kind {
                Kind::Settle { .. } => holders[index].settlements.push(op),
                Kind::FirstToken { .. } => holders[index].first_tokens.push(op),
                Kind::Admit { .. } => holders[index].admissions.push(op),
            }
        }
        Self { holders }
    }

    pub(super) fn call(&self, lane: &PoolWork) -> Call {
        let leases: Vec<String> = self.holders.iter().map(|group| lane.keys.leases(&group.holder)).collect();
        let keys: Vec<&str> = [&lane.keys.in_flight, &lane.keys.unread, &lane.keys.holders]
            .into_iter()
            .map(String::as_str)
            .chain(leases.iter().map(String::as_str))
            .collect();
        let mut call = Call::new(&COMMIT, &keys);
        call.number(lane.shared.holder_ttl_ms).number(KEY_EXPIRY_MS);
        call.arg(if lane.pool.higress_table { "0" } else { "1" });
        call.bytes(&self.encode());
        call
    }

    /// Returns the batch as lua/commit.lua expects it: addresses, weights, caps, holders, ties, prompts, cached.
    fn encode(&self) -> Vec<u8> {
        let (mut ties, mut prompts) = (Vec::new(), Vec::new());
        let mut roster: Option<&Roster> = None;
        for op in self.holders.iter().flat_map(|group| &group.admissions) {
            if let Kind::Admit { roster: r, tie, prompt, .. } = &op.kind {
                roster = Some(r);
                ties.push(*tie);
                prompts.extend(prompt);
            }
        }
        let endpoints = roster.map_or(&[][..], Roster::endpoints);
        let addresses: Vec<&str> = endpoints.iter().map(|endpoint| &*endpoint.address).collect();
        let weights = PerEndpoint::of(endpoints.iter().map(|endpoint| endpoint.weight), 1.0);
        let caps = PerEndpoint::of(endpoints.iter().map(|endpoint| endpoint.cap), 0);
        let holders: Vec<(&str, Vec<String>, usize, usize)> = self
            .holders
            .iter()
            .map(|group| {
                let ops = group.settlements.iter().chain(&group.first_tokens).chain(&group.admissions);
                // Leases are sent as texts: the script uses them as field names, and Lua formats numbers slowly.
                let leases = ops.map(|op| op.lease.to_string()).collect();
                (group.holder.as_str(), leases, group.settlements.len(), group.first_tokens.len())
            })
            .collect();
        let hits: Vec<Vec<u64>> = prompts.iter().map(|prompt| hits(roster, prompt)).collect();
        let cached = hits.iter().any(|hits| !hits.is_empty()).then_some(hits);
        let tokens: Option<Vec<u64>> =
            (!prompts.is_empty()).then(|| prompts.iter().map(|prompt| prompt.tokens).collect());
        pack(&(addresses, weights, caps, holders, ties, tokens, cached))
    }

    pub(super) fn deliver(self, mut reply: Reply, metrics: &Metrics) {
        match (reply.integer(), reply.count()) {
            (Ok(_now), Ok(clamped)) => metrics.repairs.clamped.inc_by(clamped),
            (Err(error), _) | (_, Err(error)) => return self.fail(&error),
        }
        let (mut first_tokens, mut admissions) = (Vec::new(), Vec::new());
        for group in self.holders {
            for op in group.settlements {
                op.deliver(&mut reply);
            }
            first_tokens.extend(group.first_tokens);
            admissions.extend(group.admissions);
        }
        for op in first_tokens.into_iter().chain(admissions) {
            op.deliver(&mut reply);
        }
    }

    pub(super) fn fail(self, error: &StoreError) {
        for group in self.holders {
            let ops = group.settlements.into_iter().chain(group.first_tokens).chain(group.admissions);
            ops.for_each(|op| op.fail(error));
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
            Kind::Admit { roster, prompt, answer, .. } => {
                let value = value.and_then(|value| picked(reply, &roster, prompt.as_ref(), value));
                StoreSpan::ended(self.span, value.as_ref().err());
                drop(answer.send(value));
            }
            Kind::FirstToken { answer } => {
                StoreSpan::ended(self.span, value.as_ref().err());
                drop(answer.send(value.map(drop)));
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
            Kind::FirstToken { answer } => drop(answer.send(Err(error.clone()))),
            Kind::Settle { answer } => drop(answer.send(Err(error.clone()))),
        }
    }
}

/// Returns the endpoints whose caches have a part of the prompt, as the script expects them: index from 1, tokens.
fn hits(roster: Option<&Roster>, prompt: &Prompt) -> Vec<u64> {
    let Some(roster) = roster else { return Vec::new() };
    let mut hits = Vec::with_capacity(prompt.cached.len() * 2);
    for (address, _) in &prompt.cached {
        let tokens = prompt.tokens - prompt.unread_at(address);
        if let Some(index) = roster.index_of(address)
            && tokens > 0
        {
            hits.extend([index as u64 + 1, tokens]);
        }
    }
    hits
}

/// Reads the script's answer to an admission.
fn picked(
    reply: &Reply,
    roster: &Roster,
    prompt: Option<&Prompt>,
    value: Value,
) -> Result<Picked, StoreError> {
    match value {
        Value::Int(0) => Ok(None),
        Value::Int(n) => usize::try_from(n - 1)
            .ok()
            .and_then(|i| roster.endpoints().get(i))
            .map(|endpoint| {
                let unread = prompt.map_or(0, |prompt| prompt.unread_at(&endpoint.address));
                Some((Arc::clone(&endpoint.address), unread))
            })
            .ok_or_else(|| reply.corrupt(&Value::Int(n))),
        Value::BulkString(ref existing) => {
            let lease = std::str::from_utf8(existing).ok().and_then(lease_of);
            lease.map(Some).ok_or_else(|| reply.corrupt(&value))
        }
        other => Err(reply.corrupt(&other)),
    }
}

/// Reads the value of a lease after its time: `:<endpoint>` or `;<unread tokens>:<endpoint>`.
pub(super) fn lease_of(text: &str) -> Option<(Arc<str>, u64)> {
    let (unread, endpoint) = text.split_once(':')?;
    let unread = if unread.is_empty() { 0 } else { unread.strip_prefix(';')?.parse().ok()? };
    Some((endpoint.into(), unread))
}
