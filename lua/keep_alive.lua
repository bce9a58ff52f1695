-- keep_alive: keeps a holder alive in one pool and makes the table equal to the holder's own list, if both are short.
-- For longer ones, the sidecar calls hold and drop in steps, so that no call holds Redis for long.
--
-- FRAGMENTS basics filler
-- KEYS  1       hash    endpoint -> requests in flight
--       2       zset    holder -> deadline, ms since the Unix epoch
--       3       hash    the holder's leases: lease -> "<13 digits of ms>:<endpoint>"
-- ARGV  1       holder TTL, ms
--       2       expiry of the pool's keys, ms
--       3       "1" if only Evenkeel writes this table, "0" if Higress writes KEYS[1] too
--       4       holder id
--       5       largest lease that the holder had issued when it made the list
--       6       maximum number of leases that the holder may have in the table
--       7       maximum number of leases to restore
--       8       E, number of addresses the list refers to
--       then    E addresses, each with the count up to which leases on it are restored, or -1 for any count
--       then    the list: lease, index of its address from 1 (0: the holder does not know it yet)
-- RETURNS       { now in ms, restored, dropped, moved, leases that were not restored because of ARGV 7 or the counts }
--               { now in ms, -1 } if the holder has more leases; nothing has changed
-- ERRORS        none of its own
-- COST          O(leases held + leases listed)
-- LAYOUT        ek2; see docs/redis-layout.md


local ttl_ms, expiry_ms, ours = tonumber(ARGV[1]), ARGV[2], ARGV[3] == '1'
local holder, issued_through, restores_max, addresses = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[7]), tonumber(ARGV[8])
-- One field is filler.
if call('HLEN', KEYS[3]) > tonumber(ARGV[6]) + 1 then return { now, -1 } end
local stamp = string.format('%013.0f:', now)

local listed = {}
for at = 9 + 2 * addresses, #ARGV, 2 do
  local i = tonumber(ARGV[at + 1])
  listed[ARGV[at]] = i > 0 and ARGV[7 + 2 * i] or ''
end
local count_max = {}
for at = 9, 7 + 2 * addresses, 2 do
  count_max[ARGV[at]] = tonumber(ARGV[at + 1])
end

local delta = {}
local function change(endpoint, by)
  delta[endpoint] = (delta[endpoint] or 0) + by
end

local restored, dropped, moved, refused = 0, 0, 0, 0
local flat = call('HGETALL', KEYS[3])
local set, del = {}, {}
for at = 1, #flat, 2 do
  local lease, value = flat[at], flat[at + 1]
  local endpoint, truth = string.sub(value, 15), listed[lease]
  if truth == nil then
    if lease ~= '' and tonumber(lease) <= issued_through then
      del[#del + 1] = lease
      change(endpoint, -1)
      dropped = dropped + 1
    end
  else
    if truth ~= '' and truth ~= endpoint then
      set[#set + 1], set[#set + 2] = lease, string.sub(value, 1, 14) .. truth
      change(endpoint, -1)
      change(truth, 1)
      moved = moved + 1
    end
    listed[lease] = nil
  end
end
local counts = {}
local function may_restore(endpoint)
  if restored >= restores_max then return false end
  local most = count_max[endpoint]
  if most < 0 then return true end
  if not counts[endpoint] then counts[endpoint] = tonumber(call('HGET', KEYS[1], endpoint) or 0) or 0 end
  return counts[endpoint] + (delta[endpoint] or 0) < most
end
for lease, endpoint in pairs(listed) do
  if endpoint ~= '' and not may_restore(endpoint) then
    refused = refused + 1
  elseif endpoint ~= '' then
    set[#set + 1], set[#set + 2] = lease, stamp .. endpoint
    change(endpoint, 1)
    restored = restored + 1
  end
end

if #set > 0 then set[#set + 1], set[#set + 2] = '', FILLER end

-- unpack takes at most a few thousand values.
for from = 1, #del, 1000 do
  call('HDEL', KEYS[3], unpack(del, from, min(from + 999, #del)))
end
for from = 1, #set, 1000 do
  call('HSET', KEYS[3], unpack(set, from, min(from + 999, #set)))
end
for endpoint, by in pairs(delta) do
  -- Another writer of a Higress table may have left a count below 0.
  local count = max(tonumber(call('HGET', KEYS[1], endpoint) or 0) or 0, 0) + by
  if count > 0 then
    call('HSET', KEYS[1], endpoint, string.format('%.0f', count))
  else
    call('HDEL', KEYS[1], endpoint)
  end
end

call('ZADD', KEYS[2], now + ttl_ms, holder)
call('PEXPIRE', KEYS[2], expiry_ms)
call('PEXPIRE', KEYS[3], expiry_ms)
if ours then call('PEXPIRE', KEYS[1], expiry_ms) end
return { now, restored, dropped, moved, refused }
