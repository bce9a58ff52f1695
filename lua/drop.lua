-- drop: one step of a long KeepAlive. Gives back leases that the holder's list lacks.
--
-- FRAGMENTS basics counts
-- KEYS  1       hash    endpoint -> requests in flight
--       2       hash    the holder's leases: lease -> "<13 digits of ms>:<endpoint>"
-- ARGV          the leases, at least one, none twice
-- RETURNS       { now in ms, leases given back }
-- ERRORS        none of its own
-- COST          O(leases)
-- LAYOUT        ek2; see docs/redis-layout.md

local values, del = call('HMGET', KEYS[2], unpack(ARGV)), {}
for l = 1, #ARGV do
  if values[l] then
    change(string.sub(values[l], 15), -1)
    del[#del + 1] = ARGV[l]
  end
end
if #del > 0 then call('HDEL', KEYS[2], unpack(del)) end
write_counts()
return { now, #del }
