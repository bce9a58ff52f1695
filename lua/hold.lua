-- hold: one step of a long KeepAlive. Keeps a holder alive in one pool, restores those of the listed leases that the
-- table lacks, and moves those that it has on another endpoint. Drops nothing: the list is only a part of the holder's.
--
-- FRAGMENTS basics filler order moves pool_keys counts leases held_list
-- KEYS          see held_list
-- ARGV          see held_list
--       then    the list: lease, entry; no lease twice
-- RETURNS       { now in ms, restored, moved, leases that were not restored because of a bound }
-- ERRORS        none of its own
-- COST          O(leases listed)
-- LAYOUT        ek2; see docs/redis-layout.md

local leases, endpoints, unread = {}, {}, {}
for at = after_addresses, #ARGV, 2 do
  local n = #leases + 1
  leases[n], endpoints[n], unread[n] = ARGV[at], listed_at(at + 1)
end
if #leases > 0 then
  local values = call('HMGET', KEYS[5], unpack(leases))
  for l = 1, #leases do
    if values[l] then
      correct(leases[l], values[l], endpoints[l], unread[l])
    elseif endpoints[l] ~= '' then
      restore(leases[l], endpoints[l], unread[l])
    end
  end
end
write_held()
return { now, repairs.restored, repairs.moved, repairs.refused }
