-- commit: applies a batch of admissions and settlements to one pool, in the order given.
--
-- KEYS  1       hash    endpoint -> requests in flight
--       2       zset    holder -> deadline, ms of the Unix epoch
--       3..     hash    leases of one holder: lease -> "<13 digits of ms>:<endpoint>"; one key a holder
-- ARGV  1       holder TTL, ms
--       2       expiry of the pool's keys, ms
--       3       "1" where this table is ours alone, "0" where Higress writes KEYS[1] too
--       4       E, number of endpoints to choose from
--       then    E times: address, weight (> 0), cap (0: unlimited); in order of address
--       then    one holder id for each of KEYS 3..
--       then    operations, 3 arguments each: index of the holder from 1; lease; "-" to settle, or
--               to admit, a number that decides among equals
-- RETURNS       { now in ms, clamped, one result an operation ... }
--               clamped: settlements that met a count of 0 (the table had drifted)
--               settle: 1 given back, 0 unknown
--               admit:  index of the endpoint from 1; 0 every endpoint is at its cap; or, where the lease
--                       exists already, the address of its endpoint
-- ERRORS        none of its own
-- COST          O(E + operations), plus O(E) each time a batch has used up all equally good endpoints
-- LAYOUT        ek1; see docs/redis-layout.md

local ttl_ms, expiry_ms, ours, endpoints = tonumber(ARGV[1]), ARGV[2], ARGV[3] == '1', tonumber(ARGV[4])
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local stamp = string.format('%013.0f:', now_ms)

-- The roster, and what is in flight on it.
local address, weight, cap, index, count, changed = {}, {}, {}, {}, {}, {}
local at = 5
for i = 1, endpoints do
  address[i], weight[i], cap[i] = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  index[address[i]] = i
  at = at + 3
end
if endpoints > 0 then
  local found = redis.call('HMGET', KEYS[1], unpack(address))
  for i = 1, endpoints do
    local n = tonumber(found[i] or 0)
    count[i] = n > 0 and n or 0
  end
end

local function index_of(name)
  local i = index[name]
  if not i then
    i = #address + 1
    address[i], index[name] = name, i
    local n = tonumber(redis.call('HGET', KEYS[1], name) or 0)
    count[i] = n > 0 and n or 0
  end
  return i
end

-- The holders, and those of their leases that the operations name.
local first_holder, holders = at, #KEYS - 2
local first_op = first_holder + holders
local asked, held, dirty, alive = {}, {}, {}, {}
for h = 1, holders do
  asked[h], held[h], dirty[h] = {}, {}, {}
end
for op = first_op, #ARGV, 3 do
  local fields = asked[tonumber(ARGV[op])]
  fields[#fields + 1] = ARGV[op + 1]
end
for h = 1, holders do
  local found = redis.call('HMGET', KEYS[h + 2], unpack(asked[h]))
  for i, lease in ipairs(asked[h]) do
    held[h][lease] = found[i]
  end
end

-- The endpoints with the least score, in order; nil: to be found again.
local least, equals

local function find_least()
  least, equals = math.huge, {}
  for i = 1, endpoints do
    local n = count[i]
    if cap[i] == 0 or n < cap[i] then
      local score = (n + 1) / weight[i]
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
  if #equals == 0 then return 0 end
  local i = table.remove(equals, tie % #equals + 1)
  if #equals == 0 then equals = nil end
  count[i] = count[i] + 1
  changed[i] = true
  return i
end

local clamped = 0

local function give_back(i)
  changed[i] = true
  if count[i] == 0 then
    clamped = clamped + 1
    return
  end
  count[i] = count[i] - 1
  if not equals or i > endpoints or (cap[i] > 0 and count[i] >= cap[i]) then return end
  local score = (count[i] + 1) / weight[i]
  if score < least then
    least, equals = score, { i }
  elseif score == least then
    local place = #equals + 1
    while place > 1 and equals[place - 1] > i do place = place - 1 end
    table.insert(equals, place, i)
  end
end

local reply = { now_ms, 0 }
for op = first_op, #ARGV, 3 do
  local h, lease, tie = tonumber(ARGV[op]), ARGV[op + 1], ARGV[op + 2]
  local value = held[h][lease]
  local result
  if tie == '-' then
    result = 0
    if value then
      give_back(index_of(string.sub(value, 15)))
      held[h][lease], dirty[h][lease] = false, true
      result = 1
    end
  else
    alive[h] = true
    if value then
      result = string.sub(value, 15)
    else
      result = take(tonumber(tie))
      if result > 0 then
        held[h][lease], dirty[h][lease] = stamp .. address[result], true
      end
    end
  end
  reply[#reply + 1] = result
end
reply[2] = clamped

-- Write what changed.
local set, del = {}, {}
for i in pairs(changed) do
  if count[i] > 0 then
    set[#set + 1], set[#set + 2] = address[i], count[i]
  else
    del[#del + 1] = address[i]
  end
end
if #set > 0 then redis.call('HSET', KEYS[1], unpack(set)) end
if #del > 0 then redis.call('HDEL', KEYS[1], unpack(del)) end
if ours and #set > 0 then redis.call('PEXPIRE', KEYS[1], expiry_ms) end

local any_alive = false
for h = 1, holders do
  set, del = {}, {}
  for lease in pairs(dirty[h]) do
    local value = held[h][lease]
    if value then
      set[#set + 1], set[#set + 2] = lease, value
    else
      del[#del + 1] = lease
    end
  end
  if #del > 0 then redis.call('HDEL', KEYS[h + 2], unpack(del)) end
  if #set > 0 then
    redis.call('HSET', KEYS[h + 2], unpack(set))
    redis.call('PEXPIRE', KEYS[h + 2], expiry_ms)
  end
  if alive[h] then
    redis.call('ZADD', KEYS[2], now_ms + ttl_ms, ARGV[first_holder + h - 1])
    any_alive = true
  end
end
if any_alive then redis.call('PEXPIRE', KEYS[2], expiry_ms) end

return reply
