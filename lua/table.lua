-- table: reads one pool's table.
--
-- FRAGMENTS basics
-- KEYS  1       hash    endpoint -> requests in flight
--       2       hash    endpoint -> unread tokens
--       3       zset    see order; not read
--       4       zset    holder -> deadline, ms since the Unix epoch
-- ARGV          none
-- RETURNS       { now in ms, { endpoint, count ... }, { endpoint, unread tokens ... },
--               { holder, deadline in ms ... } }. The field '' is not an endpoint; see filler
-- ERRORS        none of its own
-- COST          O(endpoints in use + holders); writes nothing
-- LAYOUT        ek2; see docs/redis-layout.md

return { now, call('HGETALL', KEYS[1]), call('HGETALL', KEYS[2]), call('ZRANGE', KEYS[4], 0, -1, 'WITHSCORES') }
