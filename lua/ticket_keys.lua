-- ticket_keys: merges the keys that a sidecar knows with those of all sidecars, and returns all of them.
--
-- FRAGMENTS basics
-- KEYS  1  hash   key, 32 bytes -> when it was made, ms since the Unix epoch, by the clock of the sidecar that made it
-- ARGV  1  1 if tickets may carry the sidecar's keys, so that they are added; 0 if its only key is new, so that it is
--          added only if there is no other
--       2  age after which a key is removed unless it is the oldest, which signs, ms
--       3  maximum number of keys
--       then pairs of a key and when it was made
-- RETURNS  { now in ms, pairs of a key and when it was made }
-- ERRORS   none of its own
-- COST     O(keys)
-- LAYOUT   ek2; see docs/redis-layout.md

local age_max, most = tonumber(ARGV[2]), tonumber(ARGV[3])
local made, n, oldest = {}, 0, math.huge

local known = call('HGETALL', KEYS[1])
for i = 1, #known, 2 do
  made[known[i]], n = tonumber(known[i + 1]), n + 1
end
if ARGV[1] == '1' or n == 0 then
  for i = 4, #ARGV, 2 do
    if not made[ARGV[i]] and n < most then
      call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
      made[ARGV[i]], n = tonumber(ARGV[i + 1]), n + 1
    end
  end
end
for _, ms in pairs(made) do oldest = min(oldest, ms) end
local reply, n_reply = { now }, 1
for key, ms in pairs(made) do
  if ms > oldest and now - ms > age_max then
    call('HDEL', KEYS[1], key)
  else
    reply[n_reply + 1], reply[n_reply + 2], n_reply = key, string.format('%.0f', ms), n_reply + 2
  end
end
return reply
