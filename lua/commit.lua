-- commit: applies a batch of settlements and admissions to one pool; all settlements first.
--
-- FRAGMENTS basics filler
-- KEYS  1       hash    endpoint -> requests in flight
--       2       zset    holder -> deadline, ms since the Unix epoch
--       3..     hash    leases of one holder: lease -> "<13 digits of ms>:<endpoint>"; one key per holder
-- ARGV  1       holder TTL, ms
--       2       expiry of the pool's keys, ms
--       3       "1" if only Evenkeel writes this table, "0" if Higress writes KEYS[1] too
--       4       the batch, MessagePack (one argument, as parsing hundreds took half the time of a call):
--                 { addresses, weights, caps, holders, ties }
--               addresses: the endpoints to choose from, in order; weights (> 0) and caps (0: unlimited):
--               one for each address, or one number for all
--               holders: for each of KEYS 3.. { id, leases, S }; the script settles the first S
--               leases and admits the others; no lease is named twice
--               ties: for each admission, a number that decides between endpoints with equal scores
-- RETURNS       { now in ms, clamped, results of all settlements ..., results of all admissions ... }
--               in the order of holders and leases
--               clamped: settlements that found a count of 0, because the table had drifted
--               settlement: 1 given back, 0 unknown
--               admission:  index of the endpoint from 1; 0 if every endpoint is at its cap; or, if the
--                           lease exists already, the address of its endpoint
-- ERRORS        none of its own
-- COST          O(addresses + operations), plus O(addresses) each time the admissions have used all
--               endpoints with the least score
-- LAYOUT        ek2; see docs/redis-layout.md


local sub = string.sub
local ttl_ms, expiry_ms, ours = tonumber(ARGV[1]), ARGV[2], ARGV[3] == '1'
local batch = cmsgpack.unpack(ARGV[4])
local address, weight, cap, holders, ties = batch[1], batch[2], batch[3], batch[4], batch[5]
local endpoints = #address
local reply, n_reply = { now, 0 }, 2

-- Requests in flight on each address. If few addresses have requests in flight, reading the whole hash costs less than
-- reading one field for each address.
local count, was, index = {}, {}, nil
if endpoints > 0 then
  local found
  if 2 * call('HLEN', KEYS[1]) < endpoints then
    local fields, by_name = call('HGETALL', KEYS[1]), {}
    for f = 1, #fields, 2 do by_name[fields[f]] = fields[f + 1] end
    found = {}
    for i = 1, endpoints do found[i] = by_name[address[i]] end
  else
    found = call('HMGET', KEYS[1], unpack(address))
  end
  for i = 1, endpoints do
    local n = tonumber(found[i] or 0) or 0
    was[i], count[i] = n, n > 0 and n or 0
  end
end

local function index_of(name)
  if not index then
    index = {}
    for i = 1, endpoints do index[address[i]] = i end
  end
  local i = index[name]
  if not i then
    i = #address + 1
    address[i], index[name] = name, i
    local n = tonumber(call('HGET', KEYS[1], name) or 0) or 0
    was[i], count[i] = n, n > 0 and n or 0
  end
  return i
end

-- Settlements.
local held, settled = {}, {}
for h = 1, #holders do
  local leases, settlements = holders[h][2], holders[h][3]
  local values, del = call('HMGET', KEYS[h + 2], unpack(leases)), {}
  held[h], settled[h] = values, del
  for l = 1, settlements do
    local value, result = values[l], 0
    if value then
      local i = index_of(sub(value, 15))
      if count[i] > 0 then
        count[i] = count[i] - 1
      else
        reply[2] = reply[2] + 1
      end
      del[#del + 1], result = leases[l], 1
    end
    n_reply = n_reply + 1
    reply[n_reply] = result
  end
end

-- The endpoints with the least score, in order. nil: not computed yet.
local equals
local weights, caps = type(weight) == 'table' and weight, type(cap) == 'table' and cap

local function find_least()
  local least = math.huge
  equals = {}
  for i = 1, endpoints do
    local n, most = count[i], caps and caps[i] or cap
    if most == 0 or n < most then
      local score = weights and (n + 1) / weights[i] or n
      if score < least then
        least, equals = score, { i }
      elseif score == least then
        equals[#equals + 1] = i
      end
    end
  end
end

local function take(tie)
  if not equals then find_least() end
  local n = #equals
  if n == 0 then return 0 end
  local i = table.remove(equals, tie % n + 1)
  if n == 1 then equals = nil end
  count[i] = count[i] + 1
  return i
end

-- Admissions.
local stamp, admission, granted = string.format('%013.0f:', now), 0, {}
for h = 1, #holders do
  local leases, settlements, values = holders[h][2], holders[h][3], held[h]
  local set, n_set = { '', FILLER }, 2
  for l = settlements + 1, #leases do
    admission = admission + 1
    local result = values[l] and sub(values[l], 15)
    if not result then
      result = take(ties[admission])
      if result > 0 then
        set[n_set + 1], set[n_set + 2] = leases[l], stamp .. address[result]
        n_set = n_set + 2
      end
    end
    n_reply = n_reply + 1
    reply[n_reply] = result
  end
  granted[h] = set
end

-- All reads are done; writes follow. The script sets the expiry of new keys. KeepAlives and recounts renew it.
local deadlines, n_deadlines, deadline = {}, 0, string.format('%.0f', now + ttl_ms)
for h = 1, #holders do
  local set, del = granted[h], settled[h]
  if #del > 0 then call('HDEL', KEYS[h + 2], unpack(del)) end
  if #set > 2 and call('HSET', KEYS[h + 2], unpack(set)) == #set / 2 then
    call('PEXPIRE', KEYS[h + 2], expiry_ms)
  end
  if #holders[h][2] > holders[h][3] then
    deadlines[n_deadlines + 1], deadlines[n_deadlines + 2] = deadline, holders[h][1]
    n_deadlines = n_deadlines + 2
  end
end
if n_deadlines > 0 and call('ZADD', KEYS[2], unpack(deadlines)) > 0 then
  call('PEXPIRE', KEYS[2], expiry_ms)
end

-- Writes the changed counts. Few counts change, because an admission often takes the place of a settled request.
-- Formatting a number is slow, and many numbers are equal, so each number is formatted once.
local text = {}
local set, del = {}, {}
if ours then set = { '', FILLER } end
local n_set, fixed = #set, #set
for i = 1, #address do
  local n = count[i]
  if n ~= was[i] then
    if n > 0 then
      text[n] = text[n] or string.format('%.0f', n)
      set[n_set + 1], set[n_set + 2] = address[i], text[n]
      n_set = n_set + 2
    else
      del[#del + 1] = address[i]
    end
  end
end
if n_set > fixed and call('HSET', KEYS[1], unpack(set)) > 0 and ours then
  call('PEXPIRE', KEYS[1], expiry_ms)
end
if #del > 0 then call('HDEL', KEYS[1], unpack(del)) end

return reply
