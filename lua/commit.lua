-- commit: applies a batch of settlements, first tokens and admissions to one pool, in this order.
--
-- FRAGMENTS basics filler leases lease_changes order moves pool_keys
-- KEYS  1..3    see order
--       4       zset    holder -> deadline, ms since the Unix epoch
--       5..     hash    leases of one holder, see leases; one key per holder
-- ARGV  1       holder TTL, ms
--       2       expiry of the pool's keys, ms
--       3       "1" if only Evenkeel writes this table, "0" if Higress writes KEYS[1] too
--       4       the batch, MessagePack (one argument, as parsing hundreds took half the time of a call):
--                 { addresses, weights, caps, holders, share, prompts, cached }
--               addresses: the endpoints to choose from, in the order of weight, cap and address;
--               weights (> 0) and caps (0: unlimited): one for each address, or one number for all
--               holders: for each of KEYS 5.. { id, leases, S, F }; the first S leases are settled, the
--               next F have their first token, and the others are admitted; no lease is named twice
--               share: a number from 0 to below 1, which decides between endpoints with equal scores
--               prompts: for each admission the size of its prompt in tokens, or absent if the pool
--               chooses by requests in flight
--               cached: for each admission { index, tokens ... }, endpoints that have the beginning of the
--               prompt, ascending, and the tokens of it (> 0, at most the prompt's); or absent if no endpoint has any
-- RETURNS       { now in ms, clamped, results of all settlements ..., of all first tokens ...,
--               of all admissions ... } in the order of holders and leases
--               clamped: settlements that found a lower load than their own, because the table had drifted
--               settlement: 1 given back, 0 unknown
--               first token: 1 read, 0 unknown or read before
--               admission:  index of the endpoint from 1; 0 if every endpoint is at its cap; or, if the
--                           lease exists already, its value from the 14th byte, see leases
-- ERRORS        none of its own
-- COST          O(addresses + operations), plus O(addresses) each time the admissions have used all
--               endpoints with the least score
-- LAYOUT        ek2; see docs/redis-layout.md

-- The rule is `choose` of server/domain/src/choice.rs, with these constants and REQUEST_TOKENS.
local PROMPT_FACTOR = 2

local ttl_ms, expiry_ms, ours = tonumber(ARGV[1]), ARGV[2], ARGV[3] == '1'
local batch = cmsgpack.unpack(ARGV[4])
local address, weight, cap, holders, share = batch[1], batch[2], batch[3], batch[4], batch[5]
local prompts, cached = batch[6], batch[7]
local endpoints = #address
local reply, n_reply = { now, 0 }, 2

-- Returns the numbers of all addresses in a hash, and its length. If few addresses are in it, reading the whole hash
-- costs less than reading one field for each address.
local function numbers_in(key)
  local found
  local length = call('HLEN', key)
  if 2 * length < endpoints then
    local fields, by_name = call('HGETALL', key), {}
    for f = 1, #fields, 2 do by_name[fields[f]] = fields[f + 1] end
    found = {}
    for i = 1, endpoints do found[i] = by_name[address[i]] end
  else
    found = call('HMGET', key, unpack(address))
  end
  local numbers = {}
  for i = 1, endpoints do numbers[i] = tonumber(found[i] or 0) or 0 end
  return numbers, length
end

-- By address: requests in flight, and unread tokens if the batch needs them; before and after the batch.
local count, count_was, unread, unread_was, index = {}, {}, {}, {}, nil
local unread_length
if endpoints > 0 then
  count_was = numbers_in(KEYS[1])
  for i = 1, endpoints do count[i] = max(count_was[i], 0) end
  if prompts then
    unread_was, unread_length = numbers_in(KEYS[2])
    for i = 1, endpoints do unread[i] = unread_was[i] end
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
    count_was[i] = tonumber(call('HGET', KEYS[1], name) or 0) or 0
    count[i] = max(count_was[i], 0)
  end
  return i
end

-- Takes tokens from those that the endpoint has not read. Returns false if it had fewer.
local function read_tokens(i, tokens)
  if not unread[i] then
    unread_was[i] = tonumber(call('HGET', KEYS[2], address[i]) or 0) or 0
    unread[i] = unread_was[i]
  end
  local left = unread[i] - tokens
  unread[i] = max(left, 0)
  return left >= 0
end

-- Settlements and first tokens.
local stamp = string.format('%013.0f', now)
local held, settled, changed = {}, {}, {}
for h = 1, #holders do
  local leases, settlements = holders[h][2], holders[h][3]
  local values, del = call('HMGET', KEYS[h + 4], unpack(leases)), {}
  held[h], settled[h], changed[h] = values, del, { '', FILLER }
  for l = 1, settlements do
    local value, result = values[l], 0
    if value then
      local tokens, endpoint = lease_of(value)
      local i = index_of(endpoint)
      local enough = count[i] > 0
      if enough then count[i] = count[i] - 1 end
      if tokens > 0 then enough = read_tokens(i, tokens) and enough end
      if not enough then reply[2] = reply[2] + 1 end
      del[#del + 1], result = leases[l], 1
    end
    n_reply = n_reply + 1
    reply[n_reply] = result
  end
end
for h = 1, #holders do
  local leases, settlements, values, set = holders[h][2], holders[h][3], held[h], changed[h]
  for l = settlements + 1, settlements + holders[h][4] do
    local result = 0
    if values[l] then
      local tokens, endpoint = lease_of(values[l])
      if tokens > 0 then
        read_tokens(index_of(endpoint), tokens)
        set[#set + 1], set[#set + 2] = leases[l], lease_value(sub(values[l], 1, 13), 0, endpoint)
        result = 1
      end
    end
    n_reply = n_reply + 1
    reply[n_reply] = result
  end
end

-- The score of an endpoint is (load + base) / weight, where `base` depends on the request alone. If all weights are
-- equal, it is load.
local weights, caps = type(weight) == 'table' and weight, type(cap) == 'table' and cap
local load, step = {}, prompts and REQUEST_TOKENS or 1
for i = 1, endpoints do load[i] = (prompts and unread[i] or 0) + step * (count[i] + 1) end

-- The endpoints with the least score for this base, in order. nil: not computed yet.
local equals, least, equals_base

local function is_full(i)
  local most = caps and caps[i] or cap
  return most > 0 and count[i] >= most
end

local function find_least(base)
  least, equals, equals_base = math.huge, {}, base
  for i = 1, endpoints do
    if not is_full(i) then
      local score = weights and (load[i] + base) / weights[i] or load[i]
      if score < least then
        least, equals = score, { i }
      elseif score == least then
        equals[#equals + 1] = i
      end
    end
  end
end

-- Returns the endpoint with the least score if some endpoints have a part of the prompt in their caches, and its part.
-- Between equal scores, these endpoints come first.
local function least_with(hits, base)
  local best, tied, tokens_of = least, {}, {}
  for h = 1, #hits, 2 do
    local i, tokens = hits[h], hits[h + 1]
    if not is_full(i) then
      local score = load[i] + base - PROMPT_FACTOR * tokens
      score = weights and score / weights[i] or score - base
      tokens_of[i] = tokens
      if score < best then
        best, tied = score, { i }
      elseif score == best then
        tied[#tied + 1] = i
      end
    end
  end
  local at = floor(share * (#tied + (best == least and #equals or 0)))
  local i = tied[at + 1] or equals[at - #tied + 1]
  return i, tokens_of[i] or 0
end

-- Returns the index of the chosen endpoint, and the tokens that it must read.
local function take(admission)
  local tokens = prompts and prompts[admission] or 0
  local base = PROMPT_FACTOR * tokens
  if not equals or weights and base ~= equals_base then find_least(base) end
  local n = #equals
  if n == 0 then return 0, 0 end
  local i
  local hits = cached and cached[admission]
  if hits and #hits > 0 then
    local in_cache
    i, in_cache = least_with(hits, base)
    tokens, equals = tokens - in_cache, nil
  else
    i = table.remove(equals, floor(share * n) + 1)
    if n == 1 then equals = nil end
  end
  count[i] = count[i] + 1
  load[i] = load[i] + step + tokens
  if tokens > 0 then unread[i] = unread[i] + tokens end
  return i, tokens
end

-- Admissions.
local admission = 0
for h = 1, #holders do
  local leases, values, set = holders[h][2], held[h], changed[h]
  for l = holders[h][3] + holders[h][4] + 1, #leases do
    admission = admission + 1
    local result = values[l] and sub(values[l], 14)
    if not result then
      local tokens
      result, tokens = take(admission)
      if result > 0 then
        set[#set + 1], set[#set + 2] = leases[l], lease_value(stamp, tokens, address[result])
      end
    end
    n_reply = n_reply + 1
    reply[n_reply] = result
  end
end

-- All reads are done; writes follow.
write_leases(holders, settled, changed, ttl_ms, expiry_ms)

-- Writes the changed numbers of one hash. Few change, because an admission often takes the place of a settled request.
-- Formatting a number is slow, and many numbers are equal, so each number is formatted once.
local text = {}
local function write_changes(key, after, before, filled)
  local set, del = {}, {}
  if filled then set = { '', FILLER } end
  local n_set, fixed = #set, #set
  for i = 1, #address do
    local n = after[i]
    if n ~= before[i] then
      if n > 0 then
        text[n] = text[n] or string.format('%.0f', n)
        set[n_set + 1], set[n_set + 2] = address[i], text[n]
        n_set = n_set + 2
      else
        del[#del + 1] = address[i]
      end
    end
  end
  local added = n_set > fixed and call('HSET', key, unpack(set)) or 0
  if added > 0 and filled then call('PEXPIRE', key, expiry_ms) end
  if #del > 0 then call('HDEL', key, unpack(del)) end
  return added > 0 and added == n_set / 2
end
local is_new = write_changes(KEYS[1], count, count_was, ours) and ours
if next(unread) then write_changes(KEYS[2], unread, unread_was, unread_length == 0) end
if is_new then add_keys(expiry_ms) end

-- The order.
local rosters = ours and read_rosters() or {}
if #rosters > 0 then
  local moved, counts, tokens = {}, {}, {}
  for i = 1, #address do
    if count[i] ~= count_was[i] or unread[i] ~= unread_was[i] then
      local name = address[i]
      moved[#moved + 1], counts[name], tokens[name] = name, count[i], unread[i]
    end
  end
  move(rosters, moved, counts, tokens)
end

return reply
