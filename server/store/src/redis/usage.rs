//! Usage in Redis: a hash of rows and a list of sessions for each day, and sessions with their turns, in parts.
//! docs/redis-layout.md shows the layout.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use evenkeel_domain::{
    StoreError,
    usage::{Day, Outcome, RowKey, SessionKey, SessionSum, Turn, Usage},
};
use redis::Value;
use serde::Deserialize;

use super::{
    RedisClient,
    call::{Call, pack},
    keys::SessionsKeys,
    link::Way,
    script::{USAGE_DAY, USAGE_FORGET, USAGE_SESSIONS},
};
use crate::usage::{
    Applied, DayBatch, FORGET_MAX, FlushId, Rows, SessionUpdate, TRIM_MAX, UsageBounds, UsageStore,
    session_part,
};

/// Approximate number of rows in one chunk. It bounds how long the call blocks Redis.
const SCAN_COUNT: usize = 1000;

/// The usage store that all sidecars share.
pub struct RedisUsage {
    client: Arc<RedisClient>,
    bounds: UsageBounds,
}

impl RedisUsage {
    #[must_use]
    pub fn new(client: Arc<RedisClient>, bounds: UsageBounds) -> Self {
        Self { client, bounds }
    }

    /// Returns how long the keys of a part remain after the last write: one day longer than its sessions, because the
    /// times of the sessions are by the sidecar's clock.
    fn part_ttl_ms(&self) -> u64 {
        (self.bounds.retention + Duration::from_secs(86_400)).as_millis() as u64
    }

    /// Deletes sessions. `named` contains the name and ms of each session, as `usage_sessions` returned them.
    async fn forget(&self, keys: &SessionsKeys, named: &[Value]) -> Result<u64, StoreError> {
        let named: Vec<(SessionKey, &str)> = named
            .chunks_exact(2)
            .filter_map(|pair| {
                let [Value::BulkString(session), Value::BulkString(ms)] = pair else { return None };
                let session = SessionKey::from_text(std::str::from_utf8(session).ok()?)?;
                Some((session, std::str::from_utf8(ms).ok()?))
            })
            .collect();
        if named.is_empty() {
            return Ok(0);
        }
        let turns: Vec<String> = named.iter().map(|(session, _)| keys.turns(session)).collect();
        let all: Vec<&str> = [keys.last.as_str(), keys.sums.as_str()]
            .into_iter()
            .chain(turns.iter().map(String::as_str))
            .collect();
        let mut call = Call::new(&USAGE_FORGET, &all);
        for (session, ms) in &named {
            call.arg(session.as_str()).arg(ms);
        }
        self.client.run(&call, Way::Beside).await?.count()
    }

    async fn command(&self, cmd: &redis::Cmd) -> Result<Value, StoreError> {
        self.client.command("usage", cmd).await
    }
}

#[async_trait]
impl UsageStore for RedisUsage {
    async fn add_day(&self, id: &FlushId, day: Day, batch: &DayBatch) -> Result<Applied, StoreError> {
        let keys = self.client.keys.usage_day(day);
        let applied = keys.applied(&id.instance);
        let mut call = Call::new(&USAGE_DAY, &[&keys.rows, &keys.sessions, &keys.session_sums, &applied]);
        call.number(id.sequence)
            .number(self.bounds.day_ttl(day, id.now_ms).as_millis())
            .number(self.bounds.rows_own_max())
            .number(self.bounds.rows_max)
            .number(self.bounds.sessions_max)
            .number(self.bounds.sessions_left())
            .number(TRIM_MAX)
            .bytes(&encode_day(batch));
        let mut reply = self.client.run(&call, Way::Beside).await?;
        Ok(Applied { repeated: reply.count()? == 0, folded: reply.count()?, dropped: reply.count()? })
    }

    async fn add_sessions(
        &self,
        id: &FlushId,
        part: u8,
        batch: &[(SessionKey, SessionUpdate)],
    ) -> Result<Applied, StoreError> {
        let keys = self.client.keys.sessions(part);
        let applied = keys.applied(&id.instance);
        let turns: Vec<String> = batch.iter().map(|(session, _)| keys.turns(session)).collect();
        let all: Vec<&str> = [keys.last.as_str(), keys.sums.as_str(), applied.as_str()]
            .into_iter()
            .chain(turns.iter().map(String::as_str))
            .collect();
        let mut call = Call::new(&USAGE_SESSIONS, &all);
        call.number(id.sequence)
            .number(self.part_ttl_ms())
            .number(self.bounds.part_max())
            .number(self.bounds.turns_max)
            .number(id.now_ms.saturating_sub(self.bounds.retention.as_millis() as u64))
            .number(FORGET_MAX)
            .bytes(&encode_sessions(batch));
        for turn in batch.iter().flat_map(|(_, update)| &update.turns) {
            call.bytes(&encode_turn(turn));
        }
        let mut reply = self.client.run(&call, Way::Beside).await?;
        let (repeated, too_many) = (reply.count()? == 0, reply.count()? == 1);
        // The sums are already added. If a session cannot be deleted now, the next call returns it again.
        let forgotten = self.forget(&keys, &reply.rest()).await.unwrap_or(0);
        Ok(Applied { repeated, folded: 0, dropped: if too_many { forgotten } else { 0 } })
    }

    async fn rows(&self, day: Day, from: u64) -> Result<Rows, StoreError> {
        let mut scan = redis::cmd("HSCAN");
        scan.arg(self.client.keys.usage_day(day).rows).arg(from).arg("COUNT").arg(SCAN_COUNT);
        let value = self.command(&scan).await?;
        let (next, flat): (u64, Vec<(Vec<u8>, Vec<u8>)>) =
            redis::from_redis_value(value).map_err(|e| corrupt(&e.to_string()))?;
        let mut rows = Vec::with_capacity(flat.len());
        for (field, value) in flat {
            if field.is_empty() {
                continue; // filler
            }
            let key = std::str::from_utf8(&field).ok().and_then(RowKey::from_text);
            let usage = decode_counts(&value);
            let (Some(key), Some(counts)) = (key, usage) else {
                return Err(corrupt("a row of another layout"));
            };
            rows.push((key, Usage::from_counts(counts)));
        }
        Ok(Rows { rows, next: (next != 0).then_some(next) })
    }

    async fn top_sessions(
        &self,
        day: Day,
        tokens_max: Option<u64>,
        skip: usize,
        limit: usize,
    ) -> Result<Vec<(SessionKey, SessionSum)>, StoreError> {
        let keys = self.client.keys.usage_day(day);
        let mut range = redis::cmd("ZREVRANGEBYSCORE");
        range.arg(&keys.sessions);
        match tokens_max {
            Some(tokens) => range.arg(tokens),
            None => range.arg("+inf"),
        };
        range.arg("-inf").arg("LIMIT").arg(skip).arg(limit);
        let names: Vec<String> =
            redis::from_redis_value(self.command(&range).await?).map_err(|e| corrupt(&e.to_string()))?;
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut get = redis::cmd("HMGET");
        get.arg(&keys.session_sums).arg(&names);
        let sums: Vec<Option<Vec<u8>>> =
            redis::from_redis_value(self.command(&get).await?).map_err(|e| corrupt(&e.to_string()))?;
        let mut sessions = Vec::with_capacity(names.len());
        for (name, sum) in names.iter().zip(sums) {
            let Some(sum) = sum else { continue }; // dropped between the two commands
            let sum = decode_sum(&sum);
            let (Some(key), Some(sum)) = (SessionKey::from_text(name), sum) else {
                return Err(corrupt("a session of another layout"));
            };
            sessions.push((key, sum));
        }
        Ok(sessions)
    }

    async fn session(&self, key: &SessionKey) -> Result<Option<SessionUpdate>, StoreError> {
        let keys = self.client.keys.sessions(session_part(key.as_str()));
        let mut get = redis::cmd("HGET");
        get.arg(&keys.sums).arg(key.as_str());
        let sum: Option<Vec<u8>> =
            redis::from_redis_value(self.command(&get).await?).map_err(|e| corrupt(&e.to_string()))?;
        let Some(sum) = sum else { return Ok(None) };
        let sum = decode_sum(&sum).ok_or_else(|| corrupt("a session of another layout"))?;
        let mut range = redis::cmd("LRANGE");
        range.arg(keys.turns(key)).arg(0).arg(-1);
        let turns: Vec<Vec<u8>> =
            redis::from_redis_value(self.command(&range).await?).map_err(|e| corrupt(&e.to_string()))?;
        let turns = turns.iter().map(|turn| decode_turn(turn)).collect::<Option<Vec<Turn>>>();
        let turns = turns.ok_or_else(|| corrupt("a turn of another layout"))?;
        Ok(Some(SessionUpdate { sum, turns }))
    }
}

fn corrupt(detail: &str) -> StoreError {
    StoreError::Corrupt { script: "usage", detail: detail.to_owned() }
}

/// Encodes the batch argument of lua/usage_day.lua.
fn encode_day(batch: &DayBatch) -> Vec<u8> {
    let rows: Vec<&str> = batch.rows.iter().map(|(key, _)| key.as_str()).collect();
    let counts: Vec<u64> = batch.rows.iter().flat_map(|(_, usage)| usage.counts()).collect();
    let sessions: Vec<&str> = batch.sessions.iter().map(|(key, _)| key.as_str()).collect();
    let sums: Vec<u64> = batch.sessions.iter().flat_map(|(_, sum)| sum_numbers(sum)).collect();
    pack(&(rows, counts, sessions, sums))
}

/// Encodes the batch argument of lua/usage_sessions.lua.
fn encode_sessions(batch: &[(SessionKey, SessionUpdate)]) -> Vec<u8> {
    let sessions: Vec<&str> = batch.iter().map(|(key, _)| key.as_str()).collect();
    let sums: Vec<u64> = batch.iter().flat_map(|(_, update)| sum_numbers(&update.sum)).collect();
    let turns: Vec<usize> = batch.iter().map(|(_, update)| update.turns.len()).collect();
    pack(&(sessions, sums, turns))
}

fn sum_numbers(sum: &SessionSum) -> impl Iterator<Item = u64> {
    std::iter::once(sum.last_ms).chain(sum.usage.counts())
}

fn encode_turn(turn: &Turn) -> Vec<u8> {
    let t = &turn.tokens;
    pack(&(
        turn.at_ms,
        turn.status,
        turn.outcome.number(),
        t.input,
        t.output,
        t.cached_input,
        t.reasoning,
        u64::from(turn.estimated),
        turn.cost,
        turn.first_token_ms,
        turn.total_ms,
        &*turn.model,
        &*turn.route,
    ))
}

/// One value of a packed list. Lua writes a large number as a float.
#[derive(Deserialize)]
#[serde(untagged)]
enum Part {
    Integer(u64),
    Float(f64),
    Text(Arc<str>),
}

impl Part {
    fn number(&self) -> Option<u64> {
        match *self {
            Self::Integer(n) => Some(n),
            Self::Float(n) => Some(n as u64),
            Self::Text(_) => None,
        }
    }

    fn text(&self) -> Option<Arc<str>> {
        if let Self::Text(text) = self { Some(Arc::clone(text)) } else { None }
    }
}

fn unpack(bytes: &[u8]) -> Option<Vec<Part>> {
    rmp_serde::from_slice(bytes).ok()
}

fn numbers<const N: usize>(parts: &[Part]) -> Option<[u64; N]> {
    let numbers: Option<Vec<u64>> = parts.iter().map(Part::number).collect();
    numbers?.try_into().ok()
}

fn decode_counts(bytes: &[u8]) -> Option<[u64; 7]> {
    numbers(&unpack(bytes)?)
}

fn decode_sum(bytes: &[u8]) -> Option<SessionSum> {
    let [last_ms, counts @ ..] = numbers::<8>(&unpack(bytes)?)?;
    Some(SessionSum { last_ms, usage: Usage::from_counts(counts) })
}

/// Reads a turn. Ignores further parts, which a later version may have written.
fn decode_turn(bytes: &[u8]) -> Option<Turn> {
    let parts = unpack(bytes)?;
    let [at_ms, status, outcome, input, output, cached_input, reasoning, estimated, cost, first, total] =
        numbers(parts.get(..11)?)?;
    Some(Turn {
        at_ms,
        model: parts.get(11)?.text()?,
        route: parts.get(12)?.text()?,
        status: u16::try_from(status).ok()?,
        outcome: Outcome::from_number(i32::try_from(outcome).ok()?),
        tokens: evenkeel_domain::limit::price::Tokens { input, output, cached_input, reasoning },
        estimated: estimated != 0,
        cost,
        first_token_ms: first,
        total_ms: total,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn turns_survive_being_packed() {
        let turn = Turn {
            at_ms: 1_795_000_000_000,
            model: "m".into(),
            route: "".into(),
            status: 200,
            outcome: Outcome::ClientAbort,
            tokens: evenkeel_domain::limit::price::Tokens {
                input: 1,
                output: 1 << 40,
                cached_input: 3,
                reasoning: 0,
            },
            estimated: true,
            cost: 77,
            first_token_ms: 12,
            total_ms: 345,
        };
        let bytes = encode_turn(&turn);
        assert_eq!(decode_turn(&bytes), Some(turn));
        assert_eq!(decode_turn(&bytes[..bytes.len() - 1]), None);
    }

    proptest! {
        /// No value in Redis makes the reader panic.
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode_turn(&bytes);
            let _ = decode_sum(&bytes);
            let _ = decode_counts(&bytes);
        }
    }
}
