-- count: applies a batch of settlements and reservations to the counters of limits and quotas; all settlements first.
--
-- KEYS  first   hash    counters of one key: name of the limit or quota -> packed counter (below); the field
--                       '' holds the time this hash expires, ms, or -1: balances and amounts on record do not
--       then    zset    requests running under one limit of concurrency: id -> deadline, ms
--       then    hash    notes of reservations not yet settled: id -> '1', or '0' where it was settled after the store
--                       had lost the note; the field '' holds the time the hash was made, ms, and filler
-- ARGV  1       time now, ms; "" for Redis's own
--       2       the batch, MessagePack:
--                 { fields, running, notes, rules, settlements, reservations }
--               fields: for each hash of counters the names wanted; cells are numbered through all of them,
--               from 1
--               running: how many of the KEYS are zsets
--               notes: for each hash of notes the ids wanted; these too are numbered through, from 1
--               rules: { 1 fixed,   amount, length } or { 1, amount, edge, edge, edge, edge }   (ms)
--                      { 2 sliding, amount, period }
--                      { 3 drain,   burst, amount, period }
--                      { 4 running, amount, ttl }
--                      { 5 prepaid, default or -1 }
--                      { 6 budget,  default or -1, length } or { 6, default, edge, edge, edge, edge }
--               settlements: flat: note or 0, epoch, n, n times { cell, rule, window, reserved, actual,
--               flags (2: provisional) }
--               reservations: flat: note or 0, flags (1: only look), n, n times { cell, rule, cost, flags (1: shadow,
--               2: provisional) }
--               a cell of a rule "running" is the number of the zset; no id is named twice
-- RETURNS       one text, MessagePack: flat: now in ms; for each hash of notes its epoch; for each settlement 1, or 0
--               where it was settled before; for each reservation
--                 1, n times { used, taken, amount, window, reserved }             where admitted
--                 0, n times { over, used, amount, retry, final, reserved }        where refused (ms)
-- ERRORS        none of its own
-- COST          O(cells + operations); O(log running) for limits of concurrency
-- LAYOUT        ek1; see docs/redis-layout.md. Packed, all little-endian doubles:
--                 fixed    window start, used, of that reserved
--                 sliding  newest slot, counts of that slot and the 16 before
--                 drain    as of ms, debt times period, period: whole numbers, so that nothing is lost to rounding
--                 prepaid  balance, used, overrun, day, reserved on that day, reserved on the day before
--                 budget   window start, used, of that reserved, amount or -1

local FIXED, SLIDING, DRAIN, RUNNING, PREPAID, BUDGET = 1, 2, 3, 4, 5, 6
local SLOTS, DAY_MS = 16, 86400000
-- Notes are kept longer than any request runs.
local NOTES_MS = 2 * DAY_MS
-- Renewing an expiry costs a call: it is set ahead by up to this.
local AHEAD_MS = 60000
local FILLER = ':filler: keeps this hash a hash table instead of a list; see docs/redis-layout'

local call, floor, ceil, max, min = redis.call, math.floor, math.ceil, math.max, math.min
local pack, unpack_struct = struct.pack, struct.unpack
local FORMAT = { '<ddd', '<' .. string.rep('d', SLOTS + 2), '<ddd', false, '<dddddd', '<dddd' }
local LENGTH = { 3, SLOTS + 2, 3, 0, 6, 4 }

local batch = cmsgpack.unpack(ARGV[2])
local fields, n_running, notes = batch[1], batch[2], batch[3]
local rules, settlements, reservations = batch[4], batch[5], batch[6]
local n_buckets = #fields
local first_running, first_notes = n_buckets, n_buckets + n_running
local time = call('TIME')
local now = tonumber(ARGV[1]) or time[1] * 1000 + floor(time[2] / 1000)
local today = floor(now / DAY_MS)
local reply, n_reply = { now }, 1

-- All that is wanted, as it is stored.
local raw, name_of, bucket_of, expires = {}, {}, {}, {}
local cells = 0
for b = 1, n_buckets do
  local values = call('HMGET', KEYS[b], '', unpack(fields[b]))
  expires[b] = tonumber(values[1] or 0) or 0
  for f = 2, #values do
    cells = cells + 1
    raw[cells], name_of[cells], bucket_of[cells] = values[f], fields[b][f - 1], b
  end
end

local noted, key_of_note, epochs, made = {}, {}, {}, {}
local n_notes = 0
for k = 1, #notes do
  local key = KEYS[first_notes + k]
  local values = call('HMGET', key, '', unpack(notes[k]))
  if values[1] then
    epochs[k] = tonumber(string.match(values[1], '^%d+')) or 0
  else
    epochs[k], made[k] = now, true
  end
  for i = 2, #values do
    n_notes = n_notes + 1
    noted[n_notes], key_of_note[n_notes] = values[i], k
  end
  n_reply = n_reply + 1
  reply[n_reply] = epochs[k]
end

-- The window of a rule that has fixed ones: start and end.
local function window(rule, at)
  if not rule.start then
    local length, edge = rule[at], rule[at + 1]
    if not edge then
      rule.start = now - now % length
      rule.stop = rule.start + length
    elseif now < edge then
      rule.start, rule.stop = length, edge
    elseif now < rule[at + 2] then
      rule.start, rule.stop = edge, rule[at + 2]
    else
      rule.start, rule.stop = rule[at + 2], rule[at + 3]
    end
  end
  return rule.start, rule.stop
end

local state = {}

-- A cell as of now, unpacked.
local function load(cell, rule)
  local s = state[cell]
  if s then return s end
  local kind, packed = rule[1], raw[cell]
  s = packed and #packed == struct.size(FORMAT[kind]) and { unpack_struct(FORMAT[kind], packed) }
  if kind == FIXED then
    local start = window(rule, 3)
    if not s or s[1] ~= start then s = { start, 0, 0 } end
  elseif kind == SLIDING then
    rule.slot_ms = ceil(rule[3] / SLOTS)
    local slot = floor(now / rule.slot_ms)
    if not s or s[1] > slot or slot - s[1] > SLOTS then
      s = { slot }
      for i = 2, SLOTS + 2 do s[i] = 0 end
    elseif s[1] < slot then
      local by = slot - s[1]
      for i = SLOTS + 2, 2, -1 do s[i] = i - by >= 2 and s[i - by] or 0 end
      s[1] = slot
    end
    local sum = 0
    for i = 2, SLOTS + 2 do sum = sum + s[i] end
    s.sum = sum
  elseif kind == DRAIN then
    if not s then
      s = { now, 0, rule[4] }
    elseif s[3] ~= rule[4] then
      s[2], s[3] = s[2] / s[3] * rule[4], rule[4]
    end
    if s[1] < now then s[1], s[2] = now, max(0, s[2] - (now - s[1]) * rule[3]) end
  elseif kind == PREPAID then
    if not s then
      s = { max(0, rule[2]), 0, 0, today, 0, 0, absent = rule[2] < 0 }
    elseif s[4] ~= today then
      s[6] = s[4] == today - 1 and s[5] or 0
      s[4], s[5] = today, 0
    end
  elseif kind == BUDGET then
    local start = window(rule, 3)
    s = s or { start, 0, 0, -1 }
    if s[1] ~= start then s[1], s[2], s[3] = start, 0, 0 end
    s.amount = s[4] >= 0 and s[4] or rule[2]
  end
  state[cell] = s
  return s
end

local running = {}

local function load_running(z)
  if not running[z] then
    local key = KEYS[first_running + z]
    call('ZREMRANGEBYSCORE', key, '-inf', now)
    running[z] = call('ZCARD', key)
  end
  return running[z]
end

local dirty = {}

-- Puts what is to be charged in the place of what was reserved.
local function settle(cell, rule, at, reserved, actual, provisional, id)
  local kind = rule[1]
  if kind == RUNNING then
    call('ZREM', KEYS[first_running + cell], id)
    return
  end
  local s, more = load(cell, rule), actual - reserved
  if kind == FIXED or kind == BUDGET then
    if s[1] == at then
      s[2] = max(0, s[2] + more)
      if provisional then s[3] = max(0, s[3] - reserved) end
    else
      s[2] = s[2] + max(0, more)
    end
  elseif kind == SLIDING then
    local age = s[1] - at
    local i = (age >= 0 and age <= SLOTS) and age + 2
    if i or more > 0 then
      i = i or 2
      local before = s[i]
      s[i] = max(0, before + more)
      s.sum = s.sum + s[i] - before
    end
  elseif kind == DRAIN then
    -- What has drained since cannot be given back: it may have made room for others.
    more = more * rule[4]
    if more < 0 then more = -min(-more, max(0, reserved * rule[4] - (now - at) * rule[3])) end
    s[2] = max(0, s[2] + more)
  else
    if s.absent then return end
    if not provisional then
      s[2] = max(0, s[2] + more)
    else
      s[2] = s[2] + actual
      if at == s[4] then
        s[5] = max(0, s[5] - reserved)
      elseif at == s[4] - 1 then
        s[6] = max(0, s[6] - reserved)
      end
    end
    local paid = min(s[1], more)
    s[1], s[3] = s[1] - paid, s[3] + more - paid
  end
  dirty[cell] = rule
end

-- What could be taken of a counter; nil where there is no room.
local function room(cell, rule, cost)
  local kind = rule[1]
  if kind == RUNNING then
    if load_running(cell) + cost <= rule[2] then return cost end
    return nil
  end
  local s = load(cell, rule)
  if kind == FIXED then
    if s[2] + cost <= rule[2] then return cost end
  elseif kind == SLIDING then
    if s.sum + cost <= rule[2] then return cost end
  elseif kind == DRAIN then
    if s[2] + cost * rule[4] <= rule[2] * rule[4] then return cost end
  elseif kind == PREPAID then
    -- The last of a balance goes to one request at a time.
    if s.absent then return nil end
    if s[1] >= max(1, cost) then return cost end
    if s[1] > 0 and s[5] + s[6] == 0 then return s[1] end
  else
    if s.amount < 0 then return nil end
    local left = s.amount - s[2]
    if left >= max(1, cost) then return cost end
    if left > 0 and s[3] == 0 then return left end
  end
  return nil
end

-- Counts a request as running, once.
local running_set = {}
local function run(z, rule, id)
  if not call('ZSCORE', KEYS[first_running + z], id) then running[z] = load_running(z) + 1 end
  local set = running_set[z] or { ttl = 0 }
  set[#set + 1], set[#set + 2] = now + rule[3], id
  set.ttl, running_set[z] = max(set.ttl, rule[3]), set
end

local function take(cell, rule, taken, provisional)
  local kind, s = rule[1], load(cell, rule)
  if kind == FIXED or kind == BUDGET then
    s[2] = s[2] + taken
    if provisional then s[3] = s[3] + taken end
  elseif kind == SLIDING then
    s[2], s.sum = s[2] + taken, s.sum + taken
  elseif kind == DRAIN then
    s[2] = s[2] + taken * rule[4]
  else
    if s.absent then return end
    s[1] = max(0, s[1] - taken)
    if provisional then
      s[5] = s[5] + taken
    else
      s[2] = s[2] + taken
    end
  end
  dirty[cell] = rule
end

-- Used and the amount, for a reading.
local function used_of(cell, rule)
  local kind = rule[1]
  if kind == RUNNING then return load_running(cell), rule[2] end
  local s = load(cell, rule)
  if kind == FIXED then return s[2], rule[2] end
  if kind == SLIDING then return s.sum, rule[2] end
  if kind == DRAIN then return ceil(s[2] / rule[4]), rule[2] end
  if kind == PREPAID then return s[1], s[1] + s[2] + s[5] + s[6] end
  return s[2], max(0, s.amount)
end

local function reserved_of(cell, rule)
  local kind = rule[1]
  if kind == FIXED or kind == BUDGET then return load(cell, rule)[3] end
  if kind ~= PREPAID then return 0 end
  local s = load(cell, rule)
  return s[5] + s[6]
end

-- The window, slot, moment or day something is taken in.
local function place_of(cell, rule)
  local kind = rule[1]
  if kind == RUNNING then return 0 end
  if kind == DRAIN then return now end
  local s = load(cell, rule)
  if kind == PREPAID then return s.absent and 0 or today end
  return s[1]
end

-- Of a refusal: the time until it would fit, and the time for which it cannot, whatever is settled.
local function waits(cell, rule, cost, provisional)
  local kind = rule[1]
  if kind == RUNNING or kind == PREPAID then return 0, 0 end
  local s, retry = load(cell, rule), 0
  if kind == FIXED then
    local _, stop = window(rule, 3)
    local reset = max(0, stop - now)
    return cost <= rule[2] and reset or 0, s[2] + cost - s[3] > rule[2] and reset or 0
  elseif kind == BUDGET then
    local _, stop = window(rule, 3)
    return s.amount > 0 and max(0, stop - now) or 0, 0
  elseif kind == SLIDING then
    local sum = s.sum
    for i = SLOTS + 2, 2, -1 do
      sum = sum - s[i]
      if s[i] > 0 and sum + cost <= rule[2] then
        retry = (s[1] - (i - 2) + SLOTS + 1) * rule.slot_ms - now
        break
      end
    end
  elseif cost <= rule[2] then
    retry = ceil(max(0, s[2] + cost * rule[4] - rule[2] * rule[4]) / rule[3])
  end
  return retry, provisional and 0 or retry
end

-- Settlements.
local note_set, note_del, id_of = {}, {}, {}
for k = 1, #notes do
  note_set[k], note_del[k] = {}, {}
  for i = 1, #notes[k] do id_of[#id_of + 1] = notes[k][i] end
end
local p = 1
while settlements[p] do
  local note, epoch, n = settlements[p], settlements[p + 1], settlements[p + 2]
  p = p + 3
  local result, lost = 1, false
  if note > 0 then
    local k = key_of_note[note]
    if noted[note] == '1' then
      note_del[k][#note_del[k] + 1] = id_of[note]
      noted[note] = false
    elseif noted[note] or epochs[k] == epoch then
      result = 0
    else
      lost = true
      noted[note] = '0'
      note_set[k][#note_set[k] + 1], note_set[k][#note_set[k] + 2] = id_of[note], '0'
    end
  end
  if result == 1 then
    for i = p, p + 6 * n - 6, 6 do
      local reserved, provisional = lost and 0 or settlements[i + 3], settlements[i + 5] == 2
      settle(settlements[i], rules[settlements[i + 1]], settlements[i + 2], reserved, settlements[i + 4], provisional,
        id_of[note])
    end
  end
  p = p + 6 * n
  n_reply = n_reply + 1
  reply[n_reply] = result
end

-- Reservations.
p = 1
while reservations[p] do
  local note, look, n = reservations[p], reservations[p + 1] == 1, reservations[p + 2]
  p = p + 3
  local repeated = note > 0 and noted[note]
  local taken, admitted = {}, true
  for i = 1, n do
    local at = p + 4 * i - 4
    local cell, rule, cost = reservations[at], rules[reservations[at + 1]], reservations[at + 2]
    taken[i] = room(cell, rule, cost)
    if not taken[i] and (repeated or reservations[at + 3] % 2 == 1) then taken[i] = cost end
    admitted = admitted and taken[i] ~= nil
  end
  n_reply = n_reply + 1
  reply[n_reply] = admitted and 1 or 0
  for i = 1, n do
    local at = p + 4 * i - 4
    local cell, rule, cost = reservations[at], rules[reservations[at + 1]], reservations[at + 2]
    local provisional = reservations[at + 3] >= 2
    if admitted then
      if not (repeated or look) then
        if rule[1] == RUNNING then
          run(cell, rule, id_of[note])
        else
          take(cell, rule, taken[i], provisional)
        end
      end
      local used, amount = used_of(cell, rule)
      reply[n_reply + 1], reply[n_reply + 2] = used, taken[i]
      reply[n_reply + 3], reply[n_reply + 4] = amount, place_of(cell, rule)
      reply[n_reply + 5] = reserved_of(cell, rule)
      n_reply = n_reply + 5
    else
      local used, amount = used_of(cell, rule)
      reply[n_reply + 1], reply[n_reply + 2], reply[n_reply + 3] = taken[i] and 0 or 1, used, amount
      reply[n_reply + 4], reply[n_reply + 5] = waits(cell, rule, cost, provisional)
      reply[n_reply + 6] = reserved_of(cell, rule)
      n_reply = n_reply + 6
    end
  end
  p = p + 4 * n
  if admitted and note > 0 and not (repeated or look) then
    local set = note_set[key_of_note[note]]
    set[#set + 1], set[#set + 2] = id_of[note], '1'
    noted[note] = '1'
  end
end

-- All reading is done: write.
local set_of, need = {}, {}
for cell, rule in pairs(dirty) do
  local kind, s, b = rule[1], state[cell], bucket_of[cell]
  local set = set_of[b] or {}
  set_of[b] = set
  set[#set + 1], set[#set + 2] = name_of[cell], pack(FORMAT[kind], unpack(s, 1, LENGTH[kind]))
  local until_ms = math.huge
  if kind == FIXED or kind == BUDGET and s[4] < 0 then
    until_ms = rule.stop
  elseif kind == SLIDING then
    until_ms = now + (SLOTS + 1) * rule.slot_ms
  elseif kind == DRAIN then
    until_ms = now + ceil(s[2] / rule[3])
  end
  need[b] = max(need[b] or now, until_ms)
end
for b, set in pairs(set_of) do
  local until_ms = need[b]
  -- A recorded balance or amount does not expire: -1.
  if expires[b] ~= -1 and until_ms > expires[b] then
    if until_ms == math.huge then
      set[#set + 1], set[#set + 2] = '', '-1'
      call('HSET', KEYS[b], unpack(set))
      call('PERSIST', KEYS[b])
    else
      until_ms = until_ms + max(1000, min(until_ms - now, AHEAD_MS))
      set[#set + 1], set[#set + 2] = '', string.format('%.0f', until_ms)
      call('HSET', KEYS[b], unpack(set))
      call('PEXPIRE', KEYS[b], string.format('%.0f', until_ms - now))
    end
  else
    call('HSET', KEYS[b], unpack(set))
  end
end
for z, set in pairs(running_set) do
  local key = KEYS[first_running + z]
  call('ZADD', key, unpack(set))
  if call('PTTL', key) < set.ttl then call('PEXPIRE', key, set.ttl) end
end
for k = 1, #notes do
  local key, set, del = KEYS[first_notes + k], note_set[k], note_del[k]
  if #del > 0 then call('HDEL', key, unpack(del)) end
  if #set > 0 then
    if made[k] then set[#set + 1], set[#set + 2] = '', string.format('%.0f', now) .. FILLER end
    call('HSET', key, unpack(set))
    if made[k] then call('PEXPIRE', key, NOTES_MS) end
  end
end
return cmsgpack.pack(reply)
