-- probe: tells whether scripts can write here.
--
-- KEYS  1       string  a key of its own
-- ARGV          none
-- RETURNS       { now in ms }
-- ERRORS        whatever refuses a write: READONLY, OOM, MISCONF, NOPERM ...
-- COST          O(1)
-- LAYOUT        ek1; see docs/redis-layout.md

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('SET', KEYS[1], '1', 'PX', 1000)
return { now_ms }
