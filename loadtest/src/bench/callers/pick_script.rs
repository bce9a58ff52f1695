//! Callers of a Redis script that picks an endpoint without leases, which is the naive approach. The script reads all
//! counts and increments the lowest one.

use std::{rc::Rc, time::Instant};

use redis::{Script, aio::MultiplexedConnection};

use super::super::recorder::Recorder;
use crate::lab::{LabError, connect_redis};

const KEY: &str = "evenkeel-loadtest:bare:counts";

const PICK: &str = r"
-- Picks the endpoint with the fewest requests and counts one more on it.
-- KEYS[1] hash endpoint -> count.  RETURNS the endpoint.
local counts = redis.call('HGETALL', KEYS[1])
local best, least
for i = 1, #counts, 2 do
  local n = tonumber(counts[i + 1])
  if not least or n < least then best, least = counts[i], n end
end
redis.call('HINCRBY', KEYS[1], best, 1)
return best
";

/// Applies Evenkeel's rule: among the given endpoints, by weight, below their caps, ties broken at random.
const PICK_BY_RULE: &str = r"
-- KEYS[1] hash endpoint -> count.  ARGV tie; then address, weight, cap of each endpoint.  RETURNS the endpoint.
local addresses = {}
for at = 2, #ARGV, 3 do addresses[#addresses + 1] = ARGV[at] end
local counts = redis.call('HMGET', KEYS[1], unpack(addresses))
local least, equals = math.huge, {}
for i, address in ipairs(addresses) do
  local n, weight, cap = tonumber(counts[i] or 0), tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1])
  if cap == 0 or n < cap then
    local score = (n + 1) / weight
    if score < least then
      least, equals = score, { address }
    elseif score == least then
      equals[#equals + 1] = address
    end
  end
end
local best = equals[tonumber(ARGV[1]) % #equals + 1]
redis.call('HINCRBY', KEYS[1], best, 1)
return best
";

/// The script and its connection. Clones share the connection.
#[derive(Clone, Debug)]
pub(crate) struct PickScript {
    connection: MultiplexedConnection,
    script: Script,
    /// Number of endpoints to pass with each call; 0 for the naive script.
    candidates: usize,
}

impl PickScript {
    /// Connects and sets the counts of `endpoints` endpoints to 0.
    pub(crate) async fn connect(url: &str, endpoints: usize, by_rule: bool) -> Result<Self, LabError> {
        let mut connection = connect_redis(url).await?;
        let mut fill = redis::cmd("HSET");
        fill.arg(KEY);
        for i in 0..endpoints {
            fill.arg(address(i)).arg(0);
        }
        fill.exec_async(&mut connection).await.map_err(|source| LabError::Redis { what: "HSET", source })?;
        let (code, candidates) = if by_rule { (PICK_BY_RULE, endpoints) } else { (PICK, 0) };
        Ok(Self { connection, script: Script::new(code), candidates })
    }

    /// Picks an endpoint and returns its address.
    pub(crate) async fn pick(&mut self) -> Result<String, redis::RedisError> {
        let mut call = self.script.key(KEY);
        if self.candidates > 0 {
            call.arg(rand::random::<u32>());
        }
        for i in 0..self.candidates {
            call.arg(address(i)).arg(1).arg(0);
        }
        call.invoke_async(&mut self.connection).await
    }
}

fn address(i: usize) -> String {
    format!("10.0.{}.{}:8000", i / 250, i % 250)
}

pub(crate) async fn call(mut script: PickScript, recorder: Rc<Recorder>) {
    while !recorder.is_stopped() {
        let start = Instant::now();
        let picked = script.pick().await;
        recorder.record(start, true, picked.is_ok());
    }
}
