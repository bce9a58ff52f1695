-- drain: puts the drain of an endpoint on record, or takes it away.
--
-- KEYS  1  hash    route|cluster|endpoint, or ||endpoint in every pool -> lines of ms when it was drained, who, note;
--                  the field '' holds the version: another number after each change
-- ARGV  1  route|cluster|endpoint
--       2  'drain' or 'undrain'
--       3  who
--       4  note
--       5  most drains
-- RETURNS { 1, now, 1 if it was drained before } where done; { 0, now, 0 } where there is none to take away, or most
--         of them already
-- ERRORS  none of its own
-- COST    O(1)
-- LAYOUT  ek1; see docs/redis-layout.md

local call, floor = redis.call, math.floor
local field, most = ARGV[1], tonumber(ARGV[5])
local time = call('TIME')
local now = time[1] * 1000 + floor(time[2] / 1000)
local before = call('HEXISTS', KEYS[1], field)

if ARGV[2] == 'undrain' then
  if before == 0 then return { 0, now, 0 } end
  call('HDEL', KEYS[1], field)
else
  -- One more field: the version.
  if before == 0 and call('HLEN', KEYS[1]) > most then return { 0, now, 0 } end
  call('HSET', KEYS[1], field, table.concat({ string.format('%.0f', now), ARGV[3], ARGV[4] }, '\n'))
end
-- The time, not a count: a store that lost its data must not come to an earlier version again.
call('HSET', KEYS[1], '', string.format('%.0f', time[1] * 1000000 + time[2]))
return { 1, now, before }
