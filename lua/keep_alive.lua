-- keep_alive: keeps a holder alive in one pool and makes the table equal to the holder's own list, if both are short.
-- For longer ones, the sidecar calls hold and drop in steps, so that no call holds Redis for long.
--
-- FRAGMENTS basics filler counts held_list
-- KEYS          see held_list
-- ARGV          see held_list
--       then    largest lease that the holder had issued when it made the list
--               maximum number of leases that the holder may have in the table
--       then    the list: lease, index of its address from 1 (0: the holder does not know it yet)
-- RETURNS       { now in ms, restored, dropped, moved, leases that were not restored because of a bound }
--               { now in ms, -1 } if the holder has more leases; nothing has changed
-- ERRORS        none of its own
-- COST          O(leases held + leases listed)
-- LAYOUT        ek2; see docs/redis-layout.md

local issued_through, leases_max = tonumber(ARGV[after_addresses]), tonumber(ARGV[after_addresses + 1])
-- One field is filler.
if call('HLEN', KEYS[3]) > leases_max + 1 then return { now, -1 } end

local listed = {}
for at = after_addresses + 2, #ARGV, 2 do listed[ARGV[at]] = address_at(at + 1) end

local held, del = call('HGETALL', KEYS[3]), {}
for at = 1, #held, 2 do
  local lease, value = held[at], held[at + 1]
  local truth = listed[lease]
  if truth == nil then
    if lease ~= '' and tonumber(lease) <= issued_through then
      del[#del + 1] = lease
      change(string.sub(value, 15), -1)
    end
  else
    if truth ~= '' then move(lease, value, truth) end
    listed[lease] = nil
  end
end
for lease, endpoint in pairs(listed) do
  if endpoint ~= '' then restore(lease, endpoint) end
end

-- unpack takes at most a few thousand values.
for from = 1, #del, 1000 do
  call('HDEL', KEYS[3], unpack(del, from, min(from + 999, #del)))
end
write_held()
return { now, repairs.restored, #del, repairs.moved, repairs.refused }
