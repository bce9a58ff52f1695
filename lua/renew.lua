-- renew: renews requests under concurrency limits so that they remain counted, and restores those that are missing.
--
-- FRAGMENTS basics given_time
-- KEYS  1..   zset    in-flight requests under one limit and key: id -> deadline, ms
-- ARGV  1     current time, ms; '' for Redis's clock
--       2..   for each of KEYS the id of a request, and its time to live in ms; a key may come several times
-- RETURNS     { now in ms }
-- ERRORS      none of its own
-- COST        O(KEYS * log(requests of a key))
-- LAYOUT      ek2; see docs/redis-layout.md

for k = 1, #KEYS do
  local id, ttl = ARGV[2 * k], tonumber(ARGV[2 * k + 1])
  call('ZADD', KEYS[k], now + ttl, id)
  if call('PTTL', KEYS[k]) < ttl then call('PEXPIRE', KEYS[k], ttl) end
end
return { now }
