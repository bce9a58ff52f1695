-- hold: keeps requests counted that run under limits of concurrency, and puts back those that are not there.
--
-- KEYS  1..     zset    requests running under one limit and key: id -> deadline, ms
-- ARGV  1       time now, ms; "" for Redis's own
--       2..     for each key its id and time to live in ms; a key may come several times
-- RETURNS       { now in ms }
-- ERRORS        none of its own
-- COST          O(keys * log running)
-- LAYOUT        ek1; see docs/redis-layout.md

local time = redis.call('TIME')
local now = tonumber(ARGV[1]) or time[1] * 1000 + math.floor(time[2] / 1000)
for k = 1, #KEYS do
  local id, ttl = ARGV[2 * k], tonumber(ARGV[2 * k + 1])
  redis.call('ZADD', KEYS[k], now + ttl, id)
  if redis.call('PTTL', KEYS[k]) < ttl then redis.call('PEXPIRE', KEYS[k], ttl) end
end
return { now }
