-- keep_alive: keeps a holder alive in one pool and makes the table equal to the holder's own list, if both are short.
-- For longer ones, the sidecar calls hold and drop in steps, so that no call holds Redis for long.
--
-- FRAGMENTS basics filler order moves pool_keys counts leases held_list
-- KEYS          see held_list
-- ARGV          see held_list
--       then    largest lease that the holder had issued when it made the list
--               maximum number of leases that the holder may have in the table
--       then    the list: lease, entry
-- RETURNS       { now in ms, restored, dropped, moved, leases that were not restored because of a bound }
--               { now in ms, -1 } if the holder has more leases; nothing has changed
-- ERRORS        none of its own
-- COST          O(leases held + leases listed)
-- LAYOUT        ek2; see docs/redis-layout.md

local issued_through, leases_max = tonumber(ARGV[after_addresses]), tonumber(ARGV[after_addresses + 1])
-- One field is filler.
if call('HLEN', KEYS[5]) > leases_max + 1 then return { now, -1 } end

-- Of each listed lease, the index of its entry in ARGV.
local listed = {}
for at = after_addresses + 2, #ARGV, 2 do listed[ARGV[at]] = at + 1 end

local held, del = call('HGETALL', KEYS[5]), {}
for at = 1, #held, 2 do
  local lease, value = held[at], held[at + 1]
  local entry = listed[lease]
  if entry then
    correct(lease, value, listed_at(entry))
    listed[lease] = nil
  elseif lease ~= '' and tonumber(lease) <= issued_through then
    local unread, endpoint = lease_of(value)
    del[#del + 1] = lease
    change(endpoint, -1, -unread)
  end
end
for lease, entry in pairs(listed) do
  local endpoint, unread = listed_at(entry)
  if endpoint ~= '' then restore(lease, endpoint, unread) end
end

-- unpack takes at most a few thousand values.
for from = 1, #del, 1000 do
  call('HDEL', KEYS[5], unpack(del, from, min(from + 999, #del)))
end
write_held()
return { now, repairs.restored, #del, repairs.moved, repairs.refused }
