//! The naive way: one script call a request, which reads all counts, takes the least and adds one to it.

use redis::{Script, aio::MultiplexedConnection};

use crate::lab::LabError;

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

/// The same choice as Evenkeel's: among given endpoints, by weight, under caps, ties at random. Still no lease.
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

/// A connection and the script. Clones share the connection.
#[derive(Clone, Debug)]
pub(crate) struct PickScript {
    connection: MultiplexedConnection,
    script: Script,
    /// Endpoints to name with each call; none for the naive script.
    named: usize,
}

impl PickScript {
    /// Connects, and puts `endpoints` endpoints at 0.
    pub(crate) async fn connect(url: &str, endpoints: usize, by_rule: bool) -> Result<Self, LabError> {
        let mut connection = crate::lab::connect_redis(url).await?;
        let mut fill = redis::cmd("HSET");
        fill.arg(KEY);
        for i in 0..endpoints {
            fill.arg(address(i)).arg(0);
        }
        fill.exec_async(&mut connection).await.map_err(|source| LabError::Redis { what: "HSET", source })?;
        let (code, named) = if by_rule { (PICK_BY_RULE, endpoints) } else { (PICK, 0) };
        Ok(Self { connection, script: Script::new(code), named })
    }

    /// One pick.
    pub(crate) async fn pick(&mut self) -> Result<String, redis::RedisError> {
        let mut call = self.script.key(KEY);
        if self.named > 0 {
            call.arg(rand::random::<u32>());
        }
        for i in 0..self.named {
            call.arg(address(i)).arg(1).arg(0);
        }
        call.invoke_async(&mut self.connection).await
    }
}

fn address(i: usize) -> String {
    format!("10.0.{}.{}:8000", i / 250, i % 250)
}
