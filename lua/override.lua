-- override: puts an override of a limit on record, or takes it away.
--
-- KEYS  1  hash    limit|key -> lines of amount or -1, end in ms or 0, ms when set, who; the field '' holds the
--                  version: another number after each change
-- ARGV  1  limit|key
--       2  amount, -1 for none, or '' to take the override away
--       3  when it ends, ms of the Unix epoch, or 0
--       4  who
--       5  most overrides
-- RETURNS { 1, now } where done; { 0, now } where there is none to take away, or most of them already
-- ERRORS  none of its own
-- COST    O(1); O(overrides) where there are most of them
-- LAYOUT  ek1; see docs/redis-layout.md

local call, floor = redis.call, math.floor
local field, amount, most = ARGV[1], ARGV[2], tonumber(ARGV[5])
local time = call('TIME')
local now = time[1] * 1000 + floor(time[2] / 1000)

if amount == '' then
  if call('HDEL', KEYS[1], field) == 0 then return { 0, now } end
else
  -- One more field: the version.
  if call('HLEN', KEYS[1]) > most and call('HEXISTS', KEYS[1], field) == 0 then
    local all = call('HGETALL', KEYS[1])
    for i = 1, #all, 2 do
      local ends = tonumber(string.match(all[i + 1], '^[^\n]*\n(%d+)\n')) or 0
      if all[i] ~= '' and ends > 0 and ends <= now then call('HDEL', KEYS[1], all[i]) end
    end
    if call('HLEN', KEYS[1]) > most then return { 0, now } end
  end
  local lines = { amount, ARGV[3], string.format('%.0f', now), ARGV[4] }
  call('HSET', KEYS[1], field, table.concat(lines, '\n'))
end
-- The time, not a count: a store that lost its data must not come to an earlier version again.
call('HSET', KEYS[1], '', string.format('%.0f', time[1] * 1000000 + time[2]))
return { 1, now }
