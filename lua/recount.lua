-- recount: renews the expiry of a pool's keys, compares the loads with the leases and the order with the loads, and
-- corrects what differs because a key was evicted or deleted by hand. Brings deadlines forward that are later than a
-- live holder could have. For tables that only Evenkeel writes.
--
-- FRAGMENTS basics filler order moves rosters corrections leases
-- KEYS  1..3    see order
--       4       zset    holder -> deadline, ms since the Unix epoch
--       5..     hash    leases of one holder, see leases; one key per holder, for all holders
-- ARGV  1       expiry of the pool's keys, ms
--       2       holder TTL, which is also the time between two comparisons of unread tokens, ms
--       3       maximum number of leases for such a comparison, which reads all of them
--       4..     one holder id for each of KEYS 5..
-- RETURNS       { now in ms, endpoints whose load or place in the order was corrected }
--               { now in ms, -1 } if the holders have changed; the next recount tries again
-- ERRORS        none of its own
-- The field '' of a hash is neither an endpoint nor a lease; see filler. That of KEYS[2] ends with the time of the last
-- comparison.
-- COST          O(holders + endpoints in use); O(leases) for unread tokens, or if the requests in flight differ
-- LAYOUT        ek2; see docs/redis-layout.md

if call('ZCARD', KEYS[4]) ~= #KEYS - 4 then return { now, -1 } end
local leases = 0
for k = 1, 4 do call('PEXPIRE', KEYS[k], ARGV[1]) end
for h = 5, #KEYS do
  local deadline_ms = call('ZSCORE', KEYS[4], ARGV[h - 1])
  if not deadline_ms then return { now, -1 } end
  -- The clock has been set back. A dead holder must not live until the clock has caught up.
  if tonumber(deadline_ms) > now + ARGV[2] then call('ZADD', KEYS[4], now + ARGV[2], ARGV[h - 1]) end
  call('PEXPIRE', KEYS[h], ARGV[1])
  leases = leases + call('HLEN', KEYS[h]) - call('HEXISTS', KEYS[h], '')
end

local function sums_in(key)
  local flat, sums, total = call('HGETALL', key), {}, 0
  for at = 1, #flat, 2 do
    if flat[at] ~= '' then
      sums[flat[at]] = tonumber(flat[at + 1]) or 0
      total = total + sums[flat[at]]
    end
  end
  return sums, total
end

local corrected = {}
local function reply()
  correct_order(corrected)
  local n = 0
  for _ in pairs(corrected) do n = n + 1 end
  return { now, n }
end

local counts, sum = sums_in(KEYS[1])
local unread
-- A pool that chooses by requests in flight has no unread tokens.
if call('HLEN', KEYS[2]) > 1 and leases <= tonumber(ARGV[3]) then
  local compared_ms = tonumber(string.match(call('HGET', KEYS[2], '') or '', '(%d+)$') or 0)
  if now - compared_ms >= tonumber(ARGV[2]) then unread = sums_in(KEYS[2]) end
end
if unread then
  call('HSET', KEYS[2], '', string.format('%s:%.0f', FILLER, now))
elseif sum == leases then
  return reply()
end

local true_counts, true_unread = {}, {}
for h = 5, #KEYS do
  local held = call('HGETALL', KEYS[h])
  for at = 1, #held, 2 do
    if held[at] ~= '' then
      local tokens, endpoint = lease_of(held[at + 1])
      true_counts[endpoint] = (true_counts[endpoint] or 0) + 1
      if tokens > 0 then true_unread[endpoint] = (true_unread[endpoint] or 0) + tokens end
    end
  end
end

local function correct(key, sums, truth)
  for endpoint, sum_before in pairs(sums) do
    if not truth[endpoint] then
      call('HDEL', key, endpoint)
      corrected[endpoint] = true
    elseif truth[endpoint] == sum_before then
      truth[endpoint] = nil
    end
  end
  for endpoint, sum_now in pairs(truth) do
    call('HSET', key, endpoint, string.format('%.0f', sum_now))
    corrected[endpoint] = true
  end
  call('PEXPIRE', key, ARGV[1])
end

correct(KEYS[1], counts, true_counts)
if unread then correct(KEYS[2], unread, true_unread) end
return reply()
