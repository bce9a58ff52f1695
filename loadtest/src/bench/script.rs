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

/// A connection and the script. Clones share the connection.
#[derive(Clone, Debug)]
pub(crate) struct PickScript {
    connection: MultiplexedConnection,
    script: Script,
}

impl PickScript {
    /// Connects, and puts `endpoints` endpoints at 0.
    pub(crate) async fn connect(url: &str, endpoints: usize) -> Result<Self, LabError> {
        let mut connection = crate::lab::connect_redis(url).await?;
        let mut fill = redis::cmd("HSET");
        fill.arg(KEY);
        for i in 0..endpoints {
            fill.arg(format!("10.0.{}.{}:8000", i / 250, i % 250)).arg(0);
        }
        fill.exec_async(&mut connection).await.map_err(|source| LabError::Redis { what: "HSET", source })?;
        Ok(Self { connection, script: Script::new(PICK) })
    }

    /// One pick.
    pub(crate) async fn pick(&mut self) -> Result<String, redis::RedisError> {
        self.script.key(KEY).invoke_async(&mut self.connection).await
    }
}
