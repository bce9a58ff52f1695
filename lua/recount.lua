-- recount: renews the expiry of a pool's keys, compares the counts with the sum of the leases, and corrects counts that
-- differ because a key was evicted or deleted by hand. For tables that only Evenkeel writes.
--
-- FRAGMENTS basics
-- KEYS  1       hash    endpoint -> requests in flight
--       2       zset    holder -> deadline, ms since the Unix epoch
--       3..     hash    leases of one holder; one key per holder, for all holders
-- ARGV  1       expiry of the pool's keys, ms
--       2..     one holder id for each of KEYS 3..
-- RETURNS       { now in ms, endpoints whose count was corrected }
--               { now in ms, -1 } if the holders have changed; the next recount tries again
-- ERRORS        none of its own
-- The field '' of a hash is neither an endpoint nor a lease; see filler.
-- COST          O(holders + endpoints in use) if the sums agree, else O(leases)
-- LAYOUT        ek2; see docs/redis-layout.md

if call('ZCARD', KEYS[2]) ~= #KEYS - 2 then return { now, -1 } end
local leases = 0
call('PEXPIRE', KEYS[1], ARGV[1])
call('PEXPIRE', KEYS[2], ARGV[1])
for h = 3, #KEYS do
  if not call('ZSCORE', KEYS[2], ARGV[h - 1]) then return { now, -1 } end
  call('PEXPIRE', KEYS[h], ARGV[1])
  leases = leases + call('HLEN', KEYS[h]) - call('HEXISTS', KEYS[h], '')
end

local flat = call('HGETALL', KEYS[1])
local counted, sum = {}, 0
for at = 1, #flat, 2 do
  if flat[at] ~= '' then
    counted[flat[at]] = tonumber(flat[at + 1]) or 0
    sum = sum + counted[flat[at]]
  end
end
if sum == leases then return { now, 0 } end

local truth, corrected = {}, 0
for h = 3, #KEYS do
  local held = call('HGETALL', KEYS[h])
  for at = 1, #held, 2 do
    if held[at] ~= '' then
      local endpoint = string.sub(held[at + 1], 15)
      truth[endpoint] = (truth[endpoint] or 0) + 1
    end
  end
end
for endpoint, count in pairs(counted) do
  if not truth[endpoint] then
    call('HDEL', KEYS[1], endpoint)
    corrected = corrected + 1
  elseif truth[endpoint] == count then
    truth[endpoint] = nil
  end
end
for endpoint, count in pairs(truth) do
  call('HSET', KEYS[1], endpoint, count)
  corrected = corrected + 1
end
call('PEXPIRE', KEYS[1], ARGV[1])
return { now, corrected }
