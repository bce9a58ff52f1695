-- hold: one step of a long KeepAlive. Keeps a holder alive in one pool, restores those of the listed leases that the
-- table lacks, and moves those that it has on another endpoint. Drops nothing: the list is only a part of the holder's.
--
-- FRAGMENTS basics filler counts held_list
-- KEYS          see held_list
-- ARGV          see held_list
--       then    the list: lease, index of its address from 1 (0: the holder does not know it yet); no lease twice
-- RETURNS       { now in ms, restored, moved, leases that were not restored because of a bound }
-- ERRORS        none of its own
-- COST          O(leases listed)
-- LAYOUT        ek2; see docs/redis-layout.md

local leases, truths = {}, {}
for at = after_addresses, #ARGV, 2 do
  local truth = address_at(at + 1)
  if truth ~= '' then
    leases[#leases + 1], truths[#truths + 1] = ARGV[at], truth
  end
end
if #leases > 0 then
  local values = call('HMGET', KEYS[3], unpack(leases))
  for l = 1, #leases do
    if values[l] then
      move(leases[l], values[l], truths[l])
    else
      restore(leases[l], truths[l])
    end
  end
end
write_held()
return { now, repairs.restored, repairs.moved, repairs.refused }
