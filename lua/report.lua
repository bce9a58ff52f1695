-- report: puts what one sidecar tells in place of what it told before.
--
-- KEYS  n  hash    sidecar -> time in ms, a newline, what it tells; one for each kind of report and each page of counts
-- ARGV  1  sidecar
--       2n+1  how long the n-th key is to stay, in ms
--       2n    what is told in the n-th key
-- RETURNS { 1 }
-- ERRORS  none of its own
-- COST    O(keys)
-- LAYOUT  ek1; see docs/redis-layout.md

local sidecar = ARGV[1]
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
for i, key in ipairs(KEYS) do
  redis.call('HSET', key, sidecar, now .. '\n' .. ARGV[2 * i])
  redis.call('PEXPIRE', key, ARGV[2 * i + 1])
end
return { 1 }
