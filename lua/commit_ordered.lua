-- commit_ordered: does what commit does, for a roster in the order of the pool, see the script order. A choice does not
-- read all endpoints.
--
-- FRAGMENTS basics filler leases lease_changes order moves rosters
-- KEYS  1..3    see order
--       4       zset    holder -> deadline, ms since the Unix epoch
--       5..     hash    leases of one holder, see leases; one key per holder
-- ARGV  1       holder TTL, ms
--       2       expiry of the pool's keys, ms
--       3       the batch, MessagePack: { digest, holders, share, prompts, cached, matched }
--               digest: of the roster
--               holders, share, prompts: see commit; at least one admission
--               cached: as in commit, but the index is of an address in matched, ascending
--               matched: addresses of the roster, in the order of their classes; absent without cached
-- RETURNS       as commit. An admission has the value of its lease from the 14th byte, see leases; or 0 if every
--               endpoint is at its cap
--               { now in ms, -1 } if the order does not have the roster; nothing has changed
-- ERRORS        none of its own
-- COST          O(operations * log(endpoints) + admissions * classes)
-- LAYOUT        ek2; see docs/redis-layout.md

-- The rule is `choose` of server/domain/src/choice.rs, with these constants and REQUEST_TOKENS.
local PROMPT_FACTOR, HUGE = 2, math.huge
-- Maximum number of endpoints that one step of a choice reads.
local WIDTH_MAX = 64
-- A roster is marked as used at most once in this time, because a mark costs two calls.
local MARK_MS = 1000

local ttl_ms, expiry_ms, batch = tonumber(ARGV[1]), ARGV[2], cmsgpack.unpack(ARGV[3])
local digest, holders, share, prompts, cached, matched = batch[1], batch[2], batch[3], batch[4], batch[5], batch[6]
local reply, n_reply = { now, 0 }, 2

local rosters, roster, others, first_rank = read_rosters(), nil, {}, 0
for r = 1, #rosters do
  if rosters[r][1] == digest then
    roster = rosters[r]
  else
    others[#others + 1] = rosters[r]
    if not roster then
      for _, class in ipairs(rosters[r][4]) do first_rank = first_rank + class[3] end
    end
  end
end
if not roster then return { now, -1 } end
local by_work, classes, place = roster[2], roster[4], roster[5]

-- The leases, and the endpoints of those that end or get their first token, with their unread tokens.
local held, ended, is_ended, any_unread = {}, {}, {}, false
local lease_endpoint, lease_tokens, n_leases = {}, {}, 0
for h = 1, #holders do
  local values = call('HMGET', KEYS[h + 4], unpack(holders[h][2]))
  held[h] = values
  for l = 1, holders[h][3] + holders[h][4] do
    if values[l] then
      local tokens, endpoint = lease_of(values[l])
      any_unread = any_unread or tokens > 0
      n_leases = n_leases + 1
      lease_endpoint[n_leases], lease_tokens[n_leases] = endpoint, tokens
      if not is_ended[endpoint] then
        is_ended[endpoint], ended[#ended + 1] = true, endpoint
      end
    end
  end
end

-- By endpoint: the numbers that the script knows.
local count, unread = {}, {}
complete(KEYS[1], count, ended)
if any_unread then complete(KEYS[2], unread, ended) end
local unread_changed = {}

-- Takes tokens from those that the endpoint has not read. Returns false if it had fewer.
local function read_tokens(endpoint, tokens)
  local left = unread[endpoint] - tokens
  unread[endpoint], unread_changed[endpoint] = max(left, 0), true
  return left >= 0
end

-- Settlements and first tokens.
local stamp = string.format('%013.0f', now)
local settled, changed, first_tokens, n_first, ended_at = {}, {}, {}, 0, 0
for h = 1, #holders do
  local leases, values, settlements, del = holders[h][2], held[h], holders[h][3], {}
  local set = { '', FILLER }
  settled[h], changed[h] = del, set
  for l = 1, settlements do
    n_reply = n_reply + 1
    if values[l] then
      ended_at = ended_at + 1
      local endpoint, tokens = lease_endpoint[ended_at], lease_tokens[ended_at]
      local in_flight = count[endpoint]
      local enough = in_flight > 0
      if enough then count[endpoint] = in_flight - 1 end
      if tokens > 0 then enough = read_tokens(endpoint, tokens) and enough end
      if not enough then reply[2] = reply[2] + 1 end
      del[#del + 1], reply[n_reply] = leases[l], 1
    else
      reply[n_reply] = 0
    end
  end
  for l = settlements + 1, settlements + holders[h][4] do
    n_first = n_first + 1
    first_tokens[n_first] = 0
    if values[l] then
      ended_at = ended_at + 1
      local endpoint, tokens = lease_endpoint[ended_at], lease_tokens[ended_at]
      if tokens > 0 then
        read_tokens(endpoint, tokens)
        set[#set + 1], set[#set + 2] = leases[l], lease_value(sub(values[l], 1, 13), 0, endpoint)
        first_tokens[n_first] = 1
      end
    end
  end
end
for f = 1, n_first do reply[n_reply + f] = first_tokens[f] end
n_reply = n_reply + n_first
-- From here on, the order is up to date at each moment, so it has the answer to each choice.
move({ roster }, ended, count, unread)

-- The admissions that need an endpoint: by number, the index of the admission, and later its endpoint and the tokens
-- that the endpoint must read.
local step = by_work and REQUEST_TOKENS or 1
local wanted, n_wanted, admission = {}, 0, 0
for h = 1, #holders do
  local values = held[h]
  for l = holders[h][3] + holders[h][4] + 1, #holders[h][2] do
    admission = admission + 1
    if not values[l] then
      n_wanted = n_wanted + 1
      wanted[n_wanted] = admission
    end
  end
end
local chosen, chosen_tokens = {}, {}
-- What the admissions add to the numbers, by endpoint; and these endpoints.
local picked, taken, taken_tokens = {}, {}, {}

-- Notes that an endpoint gets a request. Returns the new score of its member.
local function take(member, score, cap, n, tokens)
  local endpoint = sub(member, 2)
  chosen[n], chosen_tokens[n] = endpoint, tokens
  if not taken[endpoint] then
    picked[#picked + 1], taken[endpoint], taken_tokens[endpoint] = endpoint, 1, tokens
  else
    taken[endpoint], taken_tokens[endpoint] = taken[endpoint] + 1, taken_tokens[endpoint] + tokens
  end
  score = score + step + tokens
  if cap > 0 then
    if not count[endpoint] then complete(KEYS[1], count, { endpoint }) end
    if count[endpoint] + taken[endpoint] >= cap then score = score + FULL end
  end
  return score
end

-- Chooses for all admissions if the roster has one class and no prompt has a part in a cache: reads the endpoints in
-- their order, and moves those that get a request all at once. Where the new load of one of them has its place, reads
-- the order anew.
local function choose_from_one_class()
  local cap, size, offset = classes[1][2], classes[1][3], offset_of(place, 1)
  local n, width, moved, n_moved, least_moved = 0, 2, { 'XX' }, 1, HUGE

  local function give(member, score)
    n = n + 1
    local new = take(member, score, cap, n, by_work and prompts[wanted[n]] or 0)
    if new < least_moved then least_moved = new end
    moved[n_moved + 1], moved[n_moved + 2] = text_of(new), member
    n_moved = n_moved + 2
  end

  -- Gives a request each to some of `equals` members from a rank on. `found` may have the first, from an index on.
  local function give_equals(equals, score, rank, found, at)
    local taking = min(equals, n_wanted - n)
    -- The same share of an ever shorter list: these are neighbours.
    local from = floor(share * (equals - taking + 1))
    local members, shift, stride = found, 2 * (at + from) - 1, 2
    if at + from + taking - 1 > #found / 2 then
      members, shift, stride = call('ZRANGE', KEYS[3], rank + from, rank + from + taking - 1), 1, 1
    end
    local low = floor(share * equals)
    local high = low - 1
    for k = 0, taking - 1 do
      local i
      if share * (equals - k) < low then
        low = low - 1
        i = low
      else
        high = high + 1
        i = high
      end
      give(members[shift + (i - from) * stride], score)
    end
  end

  while n < n_wanted do
    local found = call('ZRANGE', KEYS[3], first_rank, first_rank + min(width, size) - 1, 'WITHSCORES')
    local n_found, at = #found / 2, 1
    n_moved, least_moved = 1, HUGE
    while at <= n_found and n < n_wanted do
      local text = found[2 * at]
      local score, last = tonumber(text), at
      if score >= least_moved or score - offset >= FULL then break end
      while last < n_found and found[2 * last + 2] == text do last = last + 1 end
      local equals = last - at + 1
      if last == n_found and n_found < size then equals = call('ZCOUNT', KEYS[3], text, text) end
      if equals == 1 then
        give(found[2 * at - 1], score)
      else
        give_equals(equals, score, first_rank + at - 1, found, at)
      end
      at = at + equals
    end
    -- All endpoints are at their cap.
    if n_moved == 1 then return end
    call('ZADD', KEYS[3], unpack(moved, 1, n_moved))
    width = min(n_wanted - n + 1, WIDTH_MAX)
  end
end

-- By class: its weight, offset and rank; the least load; the number of endpoints that have it, and the member if it is
-- one.
local weight, offset, rank, least, equals, head = {}, {}, {}, {}, {}, {}

local function look(c)
  local at = rank[c]
  local found = call('ZRANGE', KEYS[3], at, classes[c][3] > 1 and at + 1 or at, 'WITHSCORES')
  local score = tonumber(found[2])
  local load = score - offset[c]
  least[c] = load < FULL and load or HUGE
  if found[4] and tonumber(found[4]) == score then
    equals[c], head[c] = call('ZCOUNT', KEYS[3], found[2], found[2]), nil
  else
    equals[c], head[c] = 1, found[1]
  end
end

-- Endpoints that have a part of a prompt: member -> index, and by index the member and its score.
local matched_at, matched_members, matched_scores = {}, {}, {}

local function class_of(score) return floor(score / (2 * FULL)) - place * CLASSES + 1 end

-- Gives a request to the member of a class with this load.
local function place_on(member, c, load, n, tokens)
  local score = take(member, offset[c] + load, classes[c][2], n, tokens)
  call('ZADD', KEYS[3], 'XX', score, member)
  if matched_at[member] then matched_scores[matched_at[member]] = score end
  if load == least[c] then
    equals[c], head[c] = equals[c] - 1, nil
    if equals[c] == 0 then look(c) end
  end
end

-- Returns the indexes in the list of those endpoints that have the least score with their cached tokens, if it is less
-- than the score without, or as little; the number of other endpoints that have it; and the score.
local function cached_equals(list, base, score, ties)
  local hits = {}
  for h = 1, #list, 2 do
    local at = matched_scores[list[h]]
    local c = at and class_of(at)
    local load = at and at - offset[c]
    if load and load < FULL then
      local s = (load + base - PROMPT_FACTOR * list[h + 1]) / weight[c]
      if s < score then
        score, ties, hits = s, 0, { h }
      elseif s == score then
        hits[#hits + 1] = h
      end
    end
  end
  return hits, ties, score
end

-- Chooses for one admission. Returns false if every endpoint is at its cap.
local function choose(n)
  local tokens = by_work and prompts[wanted[n]] or 0
  local base = PROMPT_FACTOR * tokens + step
  local score, ties = HUGE, 0
  for c = 1, #classes do
    local s = (least[c] + base) / weight[c]
    if s < score then
      score, ties = s, equals[c]
    elseif s == score then
      ties = ties + equals[c]
    end
  end
  local list, hits = cached and cached[wanted[n]], {}
  if list then hits, ties, score = cached_equals(list, base, score, ties) end
  if score == HUGE then return false end
  local index = floor(share * (#hits + ties))
  if index < #hits then
    local h = hits[index + 1]
    local at = matched_scores[list[h]]
    local c = class_of(at)
    place_on(matched_members[list[h]], c, at - offset[c], n, tokens - list[h + 1])
    return true
  end
  index = index - #hits
  local c = 1
  while (least[c] + base) / weight[c] ~= score or index >= equals[c] do
    if (least[c] + base) / weight[c] == score then index = index - equals[c] end
    c = c + 1
  end
  local at = rank[c] + index
  place_on(head[c] or call('ZRANGE', KEYS[3], at, at)[1], c, least[c], n, tokens)
  return true
end

local function choose_one_by_one()
  for c = 1, #classes do
    weight[c], offset[c], rank[c] = classes[c][1], offset_of(place, c), first_rank
    first_rank = first_rank + classes[c][3]
    look(c)
  end
  if matched then
    for m = 1, #matched do
      matched_members[m] = tostring(place) .. matched[m]
      matched_at[matched_members[m]] = m
    end
    matched_scores = call('ZMSCORE', KEYS[3], unpack(matched_members))
    for m = 1, #matched do matched_scores[m] = tonumber(matched_scores[m]) end
  end
  for n = 1, n_wanted do
    if not choose(n) then return end
  end
end

if #classes == 1 and not cached then choose_from_one_class() else choose_one_by_one() end

-- The answers, and the new leases.
local n_answered = 0
for h = 1, #holders do
  local leases, values, set = holders[h][2], held[h], changed[h]
  local n_set = #set
  for l = holders[h][3] + holders[h][4] + 1, #leases do
    n_reply = n_reply + 1
    if values[l] then
      reply[n_reply] = sub(values[l], 14)
    else
      n_answered = n_answered + 1
      reply[n_reply] = 0
      if chosen[n_answered] then
        local value = lease_value('', chosen_tokens[n_answered], chosen[n_answered])
        set[n_set + 1], set[n_set + 2], n_set = leases[l], stamp .. value, n_set + 2
        reply[n_reply] = value
      end
    end
  end
end

write_leases(holders, settled, changed, ttl_ms, expiry_ms)

-- Writes the numbers of endpoints in one hash.
local function write(key, endpoints, numbers)
  local set, del, n = { '', FILLER }, {}, 2
  for e = 1, #endpoints do
    local number = numbers[endpoints[e]]
    if number > 0 then
      set[n + 1], set[n + 2] = endpoints[e], text_of(number)
      n = n + 2
    else
      del[#del + 1] = endpoints[e]
    end
  end
  if n > 2 and call('HSET', key, unpack(set)) == n / 2 then call('PEXPIRE', key, expiry_ms) end
  if #del > 0 then call('HDEL', key, unpack(del)) end
end
complete(KEYS[1], count, picked)
local all, with_unread = ended, {}
for p = 1, #picked do
  local endpoint = picked[p]
  if not is_ended[endpoint] then all[#all + 1] = endpoint end
  count[endpoint] = count[endpoint] + taken[endpoint]
  if taken_tokens[endpoint] > 0 then unread_changed[endpoint] = true end
end
write(KEYS[1], all, count)
if next(unread_changed) then
  for endpoint in pairs(unread_changed) do with_unread[#with_unread + 1] = endpoint end
  complete(KEYS[2], unread, with_unread)
  for e = 1, #with_unread do
    local endpoint = with_unread[e]
    unread[endpoint] = unread[endpoint] + (taken_tokens[endpoint] or 0)
  end
  write(KEYS[2], with_unread, unread)
end
move(others, all, count, unread)
if now - roster[3] >= MARK_MS or now < roster[3] then
  roster[3] = now
  write_rosters(rosters)
end
return reply
