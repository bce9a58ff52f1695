-- table: reads one pool's table.
--
-- KEYS  1       hash    endpoint -> requests in flight
--       2       zset    holder -> deadline, ms of the Unix epoch
-- ARGV          none
-- RETURNS       { now in ms, { endpoint, count ... }, { holder, deadline in ms ... } }; the endpoint '' is none: it
--               keeps the hash a hash table (see commit)
-- ERRORS        none of its own
-- COST          O(endpoints in use + holders); writes nothing
-- LAYOUT        ek1; see docs/redis-layout.md

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
return { now_ms, redis.call('HGETALL', KEYS[1]), redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES') }
