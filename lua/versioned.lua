-- versioned: writes or removes an entry of a versioned hash. Overrides and drains are such hashes.
--
-- FRAGMENTS basics
-- KEYS  1  hash    name -> lines: ms when it was set, end in ms or 0, rest. The field '' holds the version, a number
--                  that differs after each change
-- ARGV  1  name
--       2  'put' or 'remove'
--       3  expiry of the entry, ms since the Unix epoch, or 0 for none
--       4  the rest of the lines
--       5  maximum number of entries
-- RETURNS { 1, now in ms, 1 if there was an entry before } if done
--         { 0, now in ms, 0 } if there is no entry to remove, or the hash is full
-- ERRORS  none of its own
-- COST    O(1); O(entries) if the hash is full
-- LAYOUT  ek2; see docs/redis-layout.md

local name, most = ARGV[1], tonumber(ARGV[5])
local before = call('HEXISTS', KEYS[1], name)

if ARGV[2] == 'remove' then
  if before == 0 then return { 0, now, 0 } end
  call('HDEL', KEYS[1], name)
else
  -- The version takes one field.
  if before == 0 and call('HLEN', KEYS[1]) > most then
    local all = call('HGETALL', KEYS[1])
    for i = 1, #all, 2 do
      local ends = tonumber(string.match(all[i + 1], '^[^\n]*\n(%d+)\n')) or 0
      if all[i] ~= '' and ends > 0 and ends <= now then call('HDEL', KEYS[1], all[i]) end
    end
    if call('HLEN', KEYS[1]) > most then return { 0, now, 0 } end
  end
  call('HSET', KEYS[1], name, table.concat({ string.format('%.0f', now), ARGV[3], ARGV[4] }, '\n'))
end
-- The version is the time, not a count, because a store that has lost its data must not repeat an earlier version.
call('HSET', KEYS[1], '', string.format('%.0f', time[1] * 1000000 + time[2]))
return { 1, now, before }
