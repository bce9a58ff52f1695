-- renew: renews requests under concurrency limits so that they remain counted, and restores those that are missing.
-- Brings deadlines forward that are later than a request renewed now could have: the clock has been set back.
--
-- FRAGMENTS basics given_time
-- KEYS  1..   zset    in-flight requests under one limit and key: id -> deadline, ms
-- ARGV  1     current time, ms; '' for Redis's clock
--       2..   for each of KEYS the id of a request, and its time to live in ms; a key may come several times
-- RETURNS     { now in ms }
-- ERRORS      none of its own
-- COST        O(KEYS * log(requests of a key)), plus O(requests) after the clock was set back
-- LAYOUT      ek2; see docs/redis-layout.md

-- The next renewal continues.
local AT_ONCE = 1000

local looked_at = {}
for k = 1, #KEYS do
  local key, id, ttl = KEYS[k], ARGV[2 * k], tonumber(ARGV[2 * k + 1])
  if not looked_at[key] then
    looked_at[key] = true
    local late = call('ZRANGE', key, string.format('(%.0f', now + ttl), '+inf', 'BYSCORE', 'LIMIT', 0, AT_ONCE)
    for i = 1, #late do call('ZADD', key, now + ttl, late[i]) end
  end
  call('ZADD', key, now + ttl, id)
  if call('PTTL', key) < ttl then call('PEXPIRE', key, ttl) end
end
return { now }
