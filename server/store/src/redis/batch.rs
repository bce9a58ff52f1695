//! Makes one call to the script `commit`: groups the operations as the script expects, and delivers the script's
//! answers.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, LazyLock},
};

use evenkeel_domain::{
    HolderId, Roster, StoreError,
    choice::{Prompt, share},
};
use evenkeel_telemetry::{Metrics, traces::StoreSpan};
use redis::Value;
use serde::Serialize;

use super::{
    KEY_EXPIRY_MS,
    call::{Call, Reply, pack},
    operation::{Kind, Op, Picked, PoolWork},
    script::{COMMIT, COMMIT_ORDERED, Script},
};

/// Operations by holder. For each holder, settlements come first, then first tokens.
pub(super) struct Batch {
    holders: Vec<Group>,
    /// What the admissions have in common. `None` without admissions.
    pub(super) choice: Option<Choice>,
}

/// What the admissions of a batch choose from, and the rule.
pub(super) struct Choice {
    pub(super) roster: Arc<Roster>,
    pub(super) by_work: bool,
    /// Decides between endpoints with equal scores: the number of the first admission.
    share: f64,
}

/// A holder of a batch, as the scripts expect it: id, leases, number of settlements, number of first tokens.
type Holder<'a> = (&'a str, Vec<String>, usize, usize);

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
        let mut choice = None;
        for op in ops {
            if let Kind::Admit { roster, tie, prompt, .. } = &op.kind {
                choice.get_or_insert_with(|| Choice {
                    roster: Arc::clone(roster),
                    by_work: prompt.is_some(),
                    share: share(*tie),
                });
            }
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
        Self { holders, choice }
    }

    /// Returns the call of `commit`, which has the endpoints to choose from.
    pub(super) fn call(&self, lane: &PoolWork) -> Call {
        let mut call = self.call_of(&COMMIT, lane);
        call.arg(if lane.pool.higress_table { "0" } else { "1" });
        let roster = self.choice.as_ref().map(|choice| &*choice.roster);
        let endpoints = || roster.into_iter().flat_map(Roster::in_class_order);
        let addresses: Vec<&str> = endpoints().map(|endpoint| &*endpoint.address).collect();
        let weights = PerEndpoint::of(endpoints().map(|endpoint| endpoint.weight), 1.0);
        let caps = PerEndpoint::of(endpoints().map(|endpoint| endpoint.cap), 0);
        let (prompts, cached) = (self.prompts(), self.cached());
        call.bytes(&pack(&(addresses, weights, caps, self.holders(), self.share(), prompts, cached)));
        call
    }

    /// Returns the call of `commit_ordered` for a roster with this digest.
    pub(super) fn ordered_call(&self, lane: &PoolWork, digest: &str) -> Call {
        let mut call = self.call_of(&COMMIT_ORDERED, lane);
        let mut cached = self.cached();
        let matched = self.choice.as_ref().zip(cached.as_mut()).map(|(choice, cached)| {
            // The script has no list of endpoints, so the hits refer to a list of their own.
            let hits = || cached.iter().flat_map(|hits| hits.chunks_exact(2));
            let matched: Vec<u64> = hits().map(|hit| hit[0]).collect::<BTreeSet<u64>>().into_iter().collect();
            for hit in cached.iter_mut().flat_map(|hits| hits.chunks_exact_mut(2)) {
                hit[0] = matched.partition_point(|index| *index < hit[0]) as u64 + 1;
            }
            let roster = &choice.roster;
            matched.iter().map(|index| &*roster.at(*index as usize - 1).address).collect::<Vec<&str>>()
        });
        let prompts = self.prompts();
        call.bytes(&pack(&(digest, self.holders(), self.share(), prompts, cached, matched)));
        call
    }

    /// Returns the beginning of a call: the keys, and the times.
    fn call_of(&self, script: &'static LazyLock<Script>, lane: &PoolWork) -> Call {
        let leases: Vec<String> = self.holders.iter().map(|group| lane.keys.leases(&group.holder)).collect();
        let keys = lane.keys.loads().into_iter().chain([&*lane.keys.holders]);
        let keys: Vec<&str> = keys.chain(leases.iter().map(String::as_str)).collect();
        let mut call = Call::new(script, &keys);
        call.number(lane.shared.holder_ttl_ms).number(KEY_EXPIRY_MS);
        call
    }

    fn share(&self) -> f64 {
        self.choice.as_ref().map_or(0.0, |choice| choice.share)
    }

    fn holders(&self) -> Vec<Holder<'_>> {
        let holder = |group: &'_ Group| {
            let ops = group.settlements.iter().chain(&group.first_tokens).chain(&group.admissions);
            // Leases are sent as texts: the script uses them as field names, and Lua formats numbers slowly.
            ops.map(|op| op.lease.to_string()).collect()
        };
        let numbers = |group: &Group| (group.settlements.len(), group.first_tokens.len());
        let all = self.holders.iter().map(|group| (group, numbers(group)));
        all.map(|(group, (s, f))| (group.holder.as_str(), holder(group), s, f)).collect()
    }

    /// The prompts of the admissions, in order. Empty if the pool chooses by requests in flight.
    fn each_prompt(&self) -> impl Iterator<Item = &Prompt> {
        self.holders.iter().flat_map(|group| &group.admissions).filter_map(|op| match &op.kind {
            Kind::Admit { prompt, .. } => prompt.as_ref(),
            _ => None,
        })
    }

    /// Returns the sizes of the prompts. `None` if the pool chooses by requests in flight.
    fn prompts(&self) -> Option<Vec<u64>> {
        let by_work = self.choice.as_ref().is_some_and(|choice| choice.by_work);
        by_work.then(|| self.each_prompt().map(|prompt| prompt.tokens).collect())
    }

    /// Returns for each prompt the endpoints that have a part of it. `None` if none has.
    fn cached(&self) -> Option<Vec<Vec<u64>>> {
        let roster = &self.choice.as_ref()?.roster;
        let hits: Vec<Vec<u64>> = self.each_prompt().map(|prompt| hits(roster, prompt)).collect();
        hits.iter().any(|hits| !hits.is_empty()).then_some(hits)
    }

    /// Delivers the answers of a script. `clamped` is the script's second answer.
    pub(super) fn deliver(self, clamped: u64, mut reply: Reply, metrics: &Metrics) {
        metrics.repairs.clamped.inc_by(clamped);
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

/// Returns the endpoints whose caches have a part of the prompt, as the script expects them: index from 1, tokens; in the
/// order of classes.
fn hits(roster: &Roster, prompt: &Prompt) -> Vec<u64> {
    let mut hits = Vec::with_capacity(prompt.cached.len());
    for (address, _) in &prompt.cached {
        let tokens = prompt.tokens - prompt.unread_at(address);
        if let Some(index) = roster.class_index_of(address)
            && tokens > 0
        {
            hits.push([index as u64 + 1, tokens]);
        }
    }
    hits.sort_unstable();
    hits.into_flattened()
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
            .filter(|i| *i < roster.endpoints().len())
            .map(|i| roster.at(i))
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
