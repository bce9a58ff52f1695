-- reap: gives back some leases of a holder that is past its deadline. Does nothing while the holder is alive.
--
-- FRAGMENTS basics filler order moves counts leases
-- KEYS  1..3    see order
--       4       zset    holder -> deadline, ms since the Unix epoch
--       5       hash    the holder's leases; see leases
-- ARGV  1       holder id
--       2       approximate maximum number of leases to give back (of a small hash, all leases)
-- RETURNS       { now in ms, leases given back, 1 if the holder has more, else 0 }
-- ERRORS        none of its own
-- COST          O(leases given back), plus a walk over empty buckets of a hash that was once large
-- LAYOUT        ek2; see docs/redis-layout.md

local deadline_ms = call('ZSCORE', KEYS[4], ARGV[1])
if not deadline_ms or tonumber(deadline_ms) > now then return { now, 0, 0 } end

-- One HSCAN visits a bounded part of the hash, which earlier calls may have emptied. Continues until it finds a lease
-- or the hash ends.
local cursor, leases = '0'
repeat
  local part = call('HSCAN', KEYS[5], cursor, 'COUNT', ARGV[2])
  cursor, leases = part[1], part[2]
until cursor == '0' or #leases > 2
local given_back = 0
for at = 1, #leases, 2 do
  -- HSCAN may return a field twice, so only removed fields count. The field '' is not a lease.
  if leases[at] ~= '' and call('HDEL', KEYS[5], leases[at]) == 1 then
    local unread, endpoint = lease_of(leases[at + 1])
    change(endpoint, -1, -unread)
    given_back = given_back + 1
  end
end
write_counts()
if call('HLEN', KEYS[5]) > call('HEXISTS', KEYS[5], '') then return { now, given_back, 1 } end
call('DEL', KEYS[5])
call('ZREM', KEYS[4], ARGV[1])
return { now, given_back, 0 }
