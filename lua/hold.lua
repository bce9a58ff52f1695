-- hold: one step of a long KeepAlive. Keeps a holder alive in one pool, restores those of the listed leases that the
-- table lacks, and moves those that it has on another endpoint. Drops nothing: the list is only a part of the holder's.
--
-- FRAGMENTS basics filler
-- KEYS  1       hash    endpoint -> requests in flight
--       2       zset    holder -> deadline, ms since the Unix epoch
--       3       hash    the holder's leases: lease -> "<13 digits of ms>:<endpoint>"
-- ARGV  1       holder TTL, ms
--       2       expiry of the pool's keys, ms
--       3       "1" if only Evenkeel writes this table, "0" if Higress writes KEYS[1] too
--       4       holder id
--       5       maximum number of leases to restore
--       6       E, number of addresses the list refers to
--       then    E addresses, each with the count up to which leases on it are restored, or -1 for any count
--       then    the list: lease, index of its address from 1 (0: the holder does not know it yet); no lease twice
-- RETURNS       { now in ms, restored, moved, leases that were not restored because of ARGV 5 or the counts }
-- ERRORS        none of its own
-- COST          O(leases listed)
-- LAYOUT        ek2; see docs/redis-layout.md

local ttl_ms, expiry_ms, ours = tonumber(ARGV[1]), ARGV[2], ARGV[3] == '1'
local holder, restores_max, addresses = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local stamp = string.format('%013.0f:', now)

local delta = {}
local function change(endpoint, by)
  delta[endpoint] = (delta[endpoint] or 0) + by
end

local leases, truths = {}, {}
for at = 7 + 2 * addresses, #ARGV, 2 do
  local i = tonumber(ARGV[at + 1])
  if i > 0 then
    leases[#leases + 1], truths[#truths + 1] = ARGV[at], ARGV[5 + 2 * i]
  end
end
local count_max = {}
for at = 7, 5 + 2 * addresses, 2 do
  count_max[ARGV[at]] = tonumber(ARGV[at + 1])
end

local restored, moved, refused, set = 0, 0, 0, {}
local counts = {}
local function may_restore(endpoint)
  if restored >= restores_max then return false end
  local most = count_max[endpoint]
  if most < 0 then return true end
  if not counts[endpoint] then counts[endpoint] = tonumber(call('HGET', KEYS[1], endpoint) or 0) or 0 end
  return counts[endpoint] + (delta[endpoint] or 0) < most
end
if #leases > 0 then
  local values = call('HMGET', KEYS[3], unpack(leases))
  for l = 1, #leases do
    local value, truth = values[l], truths[l]
    local endpoint = value and string.sub(value, 15)
    if not value and not may_restore(truth) then
      refused = refused + 1
    elseif not value then
      set[#set + 1], set[#set + 2] = leases[l], stamp .. truth
      change(truth, 1)
      restored = restored + 1
    elseif endpoint ~= truth then
      set[#set + 1], set[#set + 2] = leases[l], string.sub(value, 1, 14) .. truth
      change(endpoint, -1)
      change(truth, 1)
      moved = moved + 1
    end
  end
end

if #set > 0 then set[#set + 1], set[#set + 2] = '', FILLER end
-- unpack takes at most a few thousand values.
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
return { now, restored, moved, refused }
