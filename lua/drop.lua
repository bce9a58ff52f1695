-- drop: one step of a long KeepAlive. Gives back leases that the holder's list lacks.
--
-- FRAGMENTS basics
-- KEYS  1       hash    endpoint -> requests in flight
--       2       hash    the holder's leases: lease -> "<13 digits of ms>:<endpoint>"
-- ARGV          the leases, at least one, none twice
-- RETURNS       { now in ms, leases given back }
-- ERRORS        none of its own
-- COST          O(leases)
-- LAYOUT        ek2; see docs/redis-layout.md

local delta, del = {}, {}
local values = call('HMGET', KEYS[2], unpack(ARGV))
for l = 1, #ARGV do
  if values[l] then
    local endpoint = string.sub(values[l], 15)
    delta[endpoint] = (delta[endpoint] or 0) - 1
    del[#del + 1] = ARGV[l]
  end
end
if #del > 0 then call('HDEL', KEYS[2], unpack(del)) end
for endpoint, by in pairs(delta) do
  -- Another writer of a Higress table may have left a count below 0.
  local count = max(tonumber(call('HGET', KEYS[1], endpoint) or 0) or 0, 0) + by
  if count > 0 then
    call('HSET', KEYS[1], endpoint, string.format('%.0f', count))
  else
    call('HDEL', KEYS[1], endpoint)
  end
end
return { now, #del }
