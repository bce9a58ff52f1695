//! Callers of a fixed-window counter in Redis, which is the minimum cost of a rate limit.

use std::{rc::Rc, time::Instant};

use rand::Rng as _;
use redis::{Script, aio::MultiplexedConnection};

use super::{super::recorder::Recorder, COUNTER_KEYS};

/// The usual fixed window: one script call per request.
const FIXED_WINDOW: &str = r"
-- KEYS[1] count.  ARGV[1] hits.  RETURNS the count.
local used = redis.call('INCRBY', KEYS[1], ARGV[1])
if used == tonumber(ARGV[1]) then redis.call('PEXPIRE', KEYS[1], 1000) end
return used
";

pub(crate) async fn call(mut connection: MultiplexedConnection, recorder: Rc<Recorder>) {
    let script = Script::new(FIXED_WINDOW);
    while !recorder.is_stopped() {
        let key = format!("evenkeel-loadtest:bare:window:{}", rand::rng().random_range(0..COUNTER_KEYS));
        let start = Instant::now();
        let used: Result<u64, _> = script.key(key).arg(1).invoke_async(&mut connection).await;
        recorder.record(start, true, used.is_ok());
    }
}
