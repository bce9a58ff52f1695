-- table: reads one pool's table.
--
-- FRAGMENTS basics
-- KEYS  1       hash    endpoint -> requests in flight
--       2       zset    holder -> deadline, ms since the Unix epoch
-- ARGV          none
-- RETURNS       { now in ms, { endpoint, count ... }, { holder, deadline in ms ... } }. The field '' is not an
--               endpoint; see filler
-- ERRORS        none of its own
-- COST          O(endpoints in use + holders); writes nothing
-- LAYOUT        ek2; see docs/redis-layout.md

return { now, call('HGETALL', KEYS[1]), call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES') }
