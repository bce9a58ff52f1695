-- drop: one step of a long KeepAlive. Gives back leases that the holder's list lacks.
--
-- FRAGMENTS basics filler order moves counts leases
-- KEYS  1..3    see order
--       4       hash    the holder's leases; see leases
-- ARGV          the leases, at least one, none twice
-- RETURNS       { now in ms, leases given back }
-- ERRORS        none of its own
-- COST          O(leases)
-- LAYOUT        ek2; see docs/redis-layout.md

local values, del = call('HMGET', KEYS[4], unpack(ARGV)), {}
for l = 1, #ARGV do
  if values[l] then
    local unread, endpoint = lease_of(values[l])
    change(endpoint, -1, -unread)
    del[#del + 1] = ARGV[l]
  end
end
if #del > 0 then call('HDEL', KEYS[4], unpack(del)) end
write_counts()
return { now, #del }
