-- count: applies a batch of settlements and reservations to the counters of limits and quotas; all settlements first.
--
-- KEYS  first   hash    counters of one key: name of the limit or quota -> packed counter (below); the field
--                       '' holds the time this hash expires, ms, or -1: balances and amounts on record do not
--       then    zset    requests running under one limit of concurrency: id -> deadline, ms
--       then    hash    notes of reservations not yet settled: id -> packed doubles, for each counter the window and
--                       what was taken; or '0' where it was settled after the store had lost the note; the field ''
--                       holds the time the hash was made, ms, and filler
-- ARGV  1       time now, ms; "" for Redis's own
--       2       words, MessagePack: { sets, running, notes, rules }
--               sets: lists of names of counters
--               running: how many of the KEYS are zsets
--               notes: for each hash of notes the ids wanted; numbered through all of them, from 1
--               rules: { 1 fixed,   amount, length } or { 1, amount, edge, edge, edge, edge }   (ms)
--                      { 2 sliding, amount, period }
--                      { 3 drain,   burst, amount, period }
--                      { 4 running, amount, ttl }
--                      { 5 prepaid, default or -1 }
--                      { 6 budget,  default or -1, length } or { 6, default, edge, edge, edge, edge }
--       3       for each hash of counters the number of its set; cells are numbered through all of them, from 1
--       4       settlements, flat: note or 0, epoch, n, n times { cell, rule, window, reserved, actual,
--               flags (2: provisional) }
--       5       reservations, flat: note or 0, flags (1: only look, 2: give back what the note tells of), n,
--               n times { cell, rule, cost, flags (1: shadow, 2: provisional) }
--               3 to 5 are packed doubles, least significant byte first: eight times as fast to take apart as
--               MessagePack. A cell of a rule "running" is the number of the zset; no id is named twice
-- RETURNS       one text of packed doubles: now in ms; for each hash of notes its epoch; for each settlement 1, or 0
--               where it was settled before; for each reservation
--                 1, n times { used, taken, amount, window, reserved }             where admitted
--                 0, n times { over, used, amount, retry, final, reserved }        where refused (ms)
--                 1, or 0 where there is no note of it                             where to be given back
-- ERRORS        none of its own
-- COST          O(cells + operations); O(log running) for limits of concurrency
-- LAYOUT        ek1; see docs/redis-layout.md. Packed, all little-endian doubles:
--                 fixed    window start, used, of that reserved
--                 sliding  newest slot, counts of that slot and the 16 before
--                 drain    as of ms, debt times period, period, 0: whole numbers, so that nothing is lost to rounding
--                 prepaid  balance, used, overrun, day, reserved on that day, reserved on the day before
--                 budget   window start, used, of that reserved, amount or -1

local FIXED, SLIDING, DRAIN, RUNNING, PREPAID, BUDGET = 1, 2, 3, 4, 5, 6
local SLOTS, DAY_MS = 16, 86400000
-- Notes are kept longer than any request runs.
local NOTES_MS = 2 * DAY_MS
-- Renewing an expiry costs a call: it is set ahead by up to this.
local AHEAD_MS = 60000
-- No counter is kept longer than this, however long it would take to drain.
local KEPT_MS = 400 * DAY_MS
local FILLER = ':filler: keeps this hash a hash table instead of a list; see docs/redis-layout'
-- Numbers taken apart or put together at once: each is a place on Lua's stack.
local CHUNK = 240

local call, floor, ceil, max, min = redis.call, math.floor, math.ceil, math.max, math.min
local pack, unpack_struct = struct.pack, struct.unpack
local LENGTH = { 3, SLOTS + 2, 4, 0, 6, 4 }
local FORMAT = {}
for kind = 1, 6 do FORMAT[kind] = '<' .. string.rep('d', LENGTH[kind]) end
local CHUNK_FORMAT = '<' .. string.rep('d', CHUNK)

-- Packed doubles as a list.
local function doubles(packed)
  local n, list = #packed / 8, {}
  for from = 0, n - 1, CHUNK do
    local count = min(CHUNK, n - from)
    local format = count == CHUNK and CHUNK_FORMAT or '<' .. string.rep('d', count)
    local part = { unpack_struct(format, packed, 8 * from + 1) }
    part[count + 1] = nil -- Where it ended.
    if from == 0 then
      list = part
    else
      for i = 1, count do list[from + i] = part[i] end
    end
  end
  return list
end

local words = cmsgpack.unpack(ARGV[2])
local sets, n_running, notes, rules = words[1], words[2], words[3], words[4]
local set_of, settlements, reservations = doubles(ARGV[3]), doubles(ARGV[4]), doubles(ARGV[5])
local n_buckets = #set_of
local first_running, first_notes = n_buckets, n_buckets + n_running
local time = call('TIME')
local now = tonumber(ARGV[1]) or time[1] * 1000 + floor(time[2] / 1000)
local today = floor(now / DAY_MS)
local reply, n_reply = { now }, 1

-- All that is wanted, as it is stored.
local raw, name_of, bucket_of, expires = {}, {}, {}, {}
local cells = 0
for b = 1, n_buckets do
  local names = sets[set_of[b]]
  local values = call('HMGET', KEYS[b], '', unpack(names))
  expires[b] = tonumber(values[1] or 0) or 0
  for f = 1, #names do
    cells = cells + 1
    raw[cells], name_of[cells], bucket_of[cells] = values[f + 1], names[f], b
  end
end

local noted, key_of_note, id_of, epochs, made = {}, {}, {}, {}, {}
local n_notes = 0
for k = 1, #notes do
  local values = call('HMGET', KEYS[first_notes + k], '', unpack(notes[k]))
  if values[1] then
    epochs[k] = tonumber(string.match(values[1], '^%d+')) or 0
  else
    epochs[k], made[k] = now, true
  end
  for i = 1, #notes[k] do
    n_notes = n_notes + 1
    noted[n_notes], key_of_note[n_notes], id_of[n_notes] = values[i + 1], k, notes[k][i]
  end
  n_reply = n_reply + 1
  reply[n_reply] = epochs[k]
end

-- Start and end of the window of a rule that has fixed ones.
for r = 1, #rules do
  local rule = rules[r]
  local length, edge = rule[3], rule[4]
  if rule[1] == FIXED or rule[1] == BUDGET then
    if not edge then
      rule.start = now - now % length
      rule.stop = rule.start + length
    elseif now < edge then
      rule.start, rule.stop = length, edge
    elseif now < rule[5] then
      rule.start, rule.stop = edge, rule[5]
    else
      rule.start, rule.stop = rule[5], rule[6]
    end
    rule.reset = max(0, rule.stop - now)
  elseif rule[1] == SLIDING then
    rule.slot_ms = ceil(rule[3] / SLOTS)
    rule.slot = floor(now / rule.slot_ms)
  end
end

-- For each kind: a counter as of now.
local AS_OF_NOW = {
  [FIXED] = function(s, rule)
    -- One of the next window: the clock was set back a little.
    if s and (s[1] == rule.start or s[1] == rule.stop) then return s end
    return { rule.start, 0, 0 }
  end,
  [SLIDING] = function(s, rule)
    local slot = rule.slot
    -- A slot ahead: the clock was set back a little.
    if not s or s[1] > slot + SLOTS or slot - s[1] > SLOTS then
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
    return s
  end,
  [DRAIN] = function(s, rule)
    if not s then return { now, 0, rule[4], 0 } end
    if s[3] ~= rule[4] then s[2], s[3] = s[2] / s[3] * rule[4], rule[4] end
    if s[1] < now then s[1], s[2] = now, max(0, s[2] - (now - s[1]) * rule[3]) end
    return s
  end,
  [PREPAID] = function(s, rule)
    if not s then return { max(0, rule[2]), 0, 0, today, 0, 0, absent = rule[2] < 0 } end
    if s[4] ~= today then
      s[6] = s[4] == today - 1 and s[5] or 0
      s[4], s[5] = today, 0
    end
    return s
  end,
  [BUDGET] = function(s, rule)
    s = s or { rule.start, 0, 0, -1 }
    if s[1] ~= rule.start and s[1] ~= rule.stop then s[1], s[2], s[3] = rule.start, 0, 0 end
    s.amount = s[4] >= 0 and s[4] or rule[2]
    return s
  end,
}

local state = {}

local function load(cell, rule)
  local s = state[cell]
  if not s then
    local kind, packed = rule[1], raw[cell]
    -- One of another length is of another kind: the limit was changed, and begins anew. A quota's record is not
    -- overwritten: it refuses.
    if packed and #packed == 8 * LENGTH[kind] then
      s = AS_OF_NOW[kind]({ unpack_struct(FORMAT[kind], packed) }, rule)
    elseif packed and (kind == PREPAID or kind == BUDGET) then
      s = { 0, 0, 0, 0, 0, 0, absent = true, amount = -1, foreign = true }
    else
      s = AS_OF_NOW[kind](nil, rule)
    end
    state[cell] = s
  end
  return s
end

-- For each kind: puts what is to be charged in the place of what was reserved; false where there is nothing to change.
local function settle_window(s, _, at, reserved, actual, provisional)
  if s.foreign then return false end
  if s[1] == at then
    s[2] = max(0, s[2] + actual - reserved)
    if provisional then s[3] = max(0, s[3] - reserved) end
  else
    s[2] = s[2] + max(0, actual - reserved)
  end
  return true
end

local SETTLE = {
  [FIXED] = settle_window,
  [BUDGET] = settle_window,
  [SLIDING] = function(s, _, at, reserved, actual)
    local age, more = s[1] - at, actual - reserved
    local i = (age >= 0 and age <= SLOTS) and age + 2
    if not i and more <= 0 then return true end
    i = i or 2
    local before = s[i]
    s[i] = max(0, before + more)
    s.sum = s.sum + s[i] - before
    return true
  end,
  [DRAIN] = function(s, rule, at, reserved, actual)
    local more = (actual - reserved) * rule[4]
    -- What has drained since cannot be given back: it may have made room for others.
    if more < 0 then more = -min(-more, max(0, reserved * rule[4] - (now - at) * rule[3])) end
    s[2] = max(0, s[2] + more)
    return true
  end,
  [PREPAID] = function(s, _, at, reserved, actual, provisional)
    if s.absent then return false end
    local more = actual - reserved
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
    return true
  end,
}

-- For each kind: what could be taken; nil where there is no room. The last of a quota goes to one request at a time.
local ROOM = {
  [FIXED] = function(s, rule, cost) return s[2] + cost <= rule[2] and cost or nil end,
  [SLIDING] = function(s, rule, cost) return s.sum + cost <= rule[2] and cost or nil end,
  [DRAIN] = function(s, rule, cost) return s[2] + cost * rule[4] <= rule[2] * rule[4] and cost or nil end,
  [PREPAID] = function(s, _, cost)
    if s.absent then return nil end
    if s[1] >= max(1, cost) then return cost end
    return s[1] > 0 and s[5] + s[6] == 0 and s[1] or nil
  end,
  [BUDGET] = function(s, _, cost)
    if s.amount < 0 then return nil end
    local left = s.amount - s[2]
    if left >= max(1, cost) then return cost end
    return left > 0 and s[3] == 0 and left or nil
  end,
}

local function take_of_window(s, _, taken, provisional)
  if s.foreign then return false end
  s[2] = s[2] + taken
  if provisional then s[3] = s[3] + taken end
  return true
end

-- For each kind: takes; false where there is nothing to take of.
local TAKE = {
  [FIXED] = take_of_window,
  [BUDGET] = take_of_window,
  [SLIDING] = function(s, _, taken)
    s[2], s.sum = s[2] + taken, s.sum + taken
    return true
  end,
  [DRAIN] = function(s, rule, taken)
    s[2] = s[2] + taken * rule[4]
    return true
  end,
  [PREPAID] = function(s, _, taken, provisional)
    if s.absent then return false end
    s[1] = max(0, s[1] - taken)
    if provisional then
      s[5] = s[5] + taken
    else
      s[2] = s[2] + taken
    end
    return true
  end,
}

-- For each kind: used, amount, where something is taken, and what is reserved.
local READ = {
  [FIXED] = function(s, rule) return s[2], rule[2], s[1], s[3] end,
  [SLIDING] = function(s, rule) return s.sum, rule[2], s[1], 0 end,
  [DRAIN] = function(s, rule) return ceil(s[2] / rule[4]), rule[2], now, 0 end,
  [PREPAID] = function(s)
    local reserved = s[5] + s[6]
    return s[1], s[1] + s[2] + reserved, s.absent and 0 or today, reserved
  end,
  [BUDGET] = function(s) return s[2], max(0, s.amount), s[1], s[3] end,
}

-- For each kind, of a refusal: the time until it would fit, and whether only time can mend that.
local RETRY = {
  [FIXED] = function(s, rule, cost)
    return cost <= rule[2] and rule.reset or 0, s[2] + cost - s[3] > rule[2] and rule.reset or 0
  end,
  [BUDGET] = function(s, rule) return s.amount > 0 and rule.reset or 0, 0 end,
  [PREPAID] = function() return 0, 0 end,
  [SLIDING] = function(s, rule, cost, provisional)
    local sum = s.sum
    for i = SLOTS + 2, 2, -1 do
      sum = sum - s[i]
      if s[i] > 0 and sum + cost <= rule[2] then
        local retry = (s[1] - (i - 2) + SLOTS + 1) * rule.slot_ms - now
        return retry, provisional and 0 or retry
      end
    end
    return 0, 0
  end,
  [DRAIN] = function(s, rule, cost, provisional)
    if cost > rule[2] then return 0, 0 end
    local retry = ceil(max(0, s[2] + cost * rule[4] - rule[2] * rule[4]) / rule[3])
    return retry, provisional and 0 or retry
  end,
}

-- Requests running.
local running, running_set = {}, {}

local function load_running(z)
  if not running[z] then
    local key = KEYS[first_running + z]
    call('ZREMRANGEBYSCORE', key, '-inf', now)
    running[z] = call('ZCARD', key)
  end
  return running[z]
end

-- Counts a request as running, once.
local function run(z, rule, id)
  if not call('ZSCORE', KEYS[first_running + z], id) then running[z] = load_running(z) + 1 end
  local set = running_set[z] or { ttl = 0 }
  set[#set + 1], set[#set + 2] = now + rule[3], id
  set.ttl, running_set[z] = max(set.ttl, rule[3]), set
end

-- Settlements.
local dirty, note_set, note_del = {}, {}, {}
for k = 1, #notes do note_set[k], note_del[k] = {}, {} end
local p = 1
while settlements[p] do
  local note, epoch, n = settlements[p], settlements[p + 1], settlements[p + 2]
  p = p + 3
  local result, lost = 1, false
  if note > 0 then
    local k = key_of_note[note]
    if noted[note] and noted[note] ~= '0' then
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
  for i = p, p + 6 * n - 6, 6 do
    local cell, rule = settlements[i], rules[settlements[i + 1]]
    if rule[1] == RUNNING then
      -- A KeepAlive that was under way may have put back what ran: a repeated settlement ends it once more. One
      -- without a note was made under another arrangement of keys: what ran ends by itself.
      if note > 0 then call('ZREM', KEYS[first_running + cell], id_of[note]) end
    elseif result == 1 then
      local reserved = lost and 0 or settlements[i + 3]
      local s, provisional = load(cell, rule), settlements[i + 5] == 2
      if SETTLE[rule[1]](s, rule, settlements[i + 2], reserved, settlements[i + 4], provisional) then
        dirty[cell] = rule
      end
    end
  end
  p = p + 6 * n
  n_reply = n_reply + 1
  reply[n_reply] = result
end

-- Reservations: n times { cell, rule, cost, flags } from p on.

-- Gives back what a reservation took, by its note. What counts as running is left to end by itself.
local function give_back(from, n, note, before)
  for i = 1, n do
    local at = from + 4 * i - 4
    local cell, rule = reservations[at], rules[reservations[at + 1]]
    if rule[1] ~= RUNNING then
      local s, provisional = load(cell, rule), reservations[at + 3] >= 2
      if SETTLE[rule[1]](s, rule, before[2 * i - 1], before[2 * i], 0, provisional) then dirty[cell] = rule end
    end
  end
  local del = note_del[key_of_note[note]]
  del[#del + 1], noted[note] = id_of[note], false
end

-- What each counter has for it; the second is false where one has nothing. `before`: what it took when it was asked
-- for before.
local function judge(from, n, repeated, before)
  local taken, admitted = {}, true
  for i = 1, n do
    local at = from + 4 * i - 4
    local cell, rule, cost = reservations[at], rules[reservations[at + 1]], reservations[at + 2]
    local kind, most = rule[1], nil
    if kind == RUNNING then
      if load_running(cell) + cost <= rule[2] then most = cost end
    else
      most = ROOM[kind](load(cell, rule), rule, cost)
    end
    if before then
      most = before[2 * i]
    elseif not most and (repeated or reservations[at + 3] % 2 == 1) then
      -- In shadow mode no more is taken of a balance than there is.
      most = kind == PREPAID and min(state[cell][1], cost) or cost
    end
    taken[i], admitted = most, admitted and most ~= nil
  end
  return taken, admitted
end

-- Takes and tells of it; the windows and what was taken, as a note has them.
local function admit(from, n, note, taken, take, before)
  local note_of = {}
  for i = 1, n do
    local at = from + 4 * i - 4
    local cell, rule = reservations[at], rules[reservations[at + 1]]
    local kind = rule[1]
    local used, amount, window, reserved
    if kind == RUNNING then
      if take then run(cell, rule, id_of[note]) end
      used, amount, window, reserved = running[cell], rule[2], 0, 0
    else
      local s = state[cell]
      if take and TAKE[kind](s, rule, taken[i], reservations[at + 3] >= 2) then dirty[cell] = rule end
      used, amount, window, reserved = READ[kind](s, rule)
    end
    if before then window = before[2 * i - 1] end
    note_of[2 * i - 1], note_of[2 * i] = window, taken[i]
    reply[n_reply + 1], reply[n_reply + 2], reply[n_reply + 3] = used, taken[i], amount
    reply[n_reply + 4], reply[n_reply + 5] = window, reserved
    n_reply = n_reply + 5
  end
  return note_of
end

-- Tells why not.
local function refuse(from, n, taken)
  for i = 1, n do
    local at = from + 4 * i - 4
    local cell, rule, cost = reservations[at], rules[reservations[at + 1]], reservations[at + 2]
    local kind, s, retry, final = rule[1], state[cell], 0, 0
    local used, amount, _, reserved = running[cell], rule[2], 0, 0
    if kind ~= RUNNING then
      used, amount, _, reserved = READ[kind](s, rule)
      retry, final = RETRY[kind](s, rule, cost, reservations[at + 3] >= 2)
    end
    reply[n_reply + 1], reply[n_reply + 2], reply[n_reply + 3] = taken[i] and 0 or 1, used, amount
    reply[n_reply + 4], reply[n_reply + 5], reply[n_reply + 6] = retry, final, reserved
    n_reply = n_reply + 6
  end
end

p = 1
while reservations[p] do
  local note, flags, n = reservations[p], reservations[p + 1], reservations[p + 2]
  p = p + 3
  local repeated, before = note > 0 and noted[note], nil
  -- A note of another number of counters: the limits have changed since.
  if repeated and #repeated == 16 * n then before = doubles(repeated) end
  n_reply = n_reply + 1
  if flags == 2 then
    reply[n_reply] = before and 1 or 0
    if before then give_back(p, n, note, before) end
  else
    local taken, admitted = judge(p, n, repeated, before)
    reply[n_reply] = admitted and 1 or 0
    if admitted then
      local take = not repeated and flags == 0
      local note_of = admit(p, n, note, taken, take, before)
      if take and note > 0 then
        local set = note_set[key_of_note[note]]
        noted[note] = pack('<' .. string.rep('d', 2 * n), unpack(note_of))
        set[#set + 1], set[#set + 2] = id_of[note], noted[note]
      end
    else
      refuse(p, n, taken)
    end
  end
  p = p + 4 * n
end

-- All reading is done: write.
local values_of, need = {}, {}
for cell, rule in pairs(dirty) do
  local kind, s, b = rule[1], state[cell], bucket_of[cell]
  local values = values_of[b]
  if not values then
    values = {}
    values_of[b] = values
  end
  local n, until_ms = #values, math.huge
  values[n + 1], values[n + 2] = name_of[cell], pack(FORMAT[kind], unpack(s, 1, LENGTH[kind]))
  if kind == FIXED or kind == BUDGET and s[4] < 0 then
    until_ms = rule.stop
  elseif kind == SLIDING then
    until_ms = now + (SLOTS + 1) * rule.slot_ms
  elseif kind == DRAIN then
    until_ms = now + ceil(s[2] / rule[3])
  end
  need[b] = max(need[b] or now, until_ms)
end
for b, values in pairs(values_of) do
  local until_ms = need[b]
  -- A recorded balance or amount does not expire: -1.
  if expires[b] ~= -1 and until_ms > expires[b] then
    if until_ms == math.huge then
      values[#values + 1], values[#values + 2] = '', '-1'
      call('HSET', KEYS[b], unpack(values))
      call('PERSIST', KEYS[b])
    else
      until_ms = min(until_ms + max(1000, min(until_ms - now, AHEAD_MS)), now + KEPT_MS)
      values[#values + 1], values[#values + 2] = '', string.format('%.0f', until_ms)
      call('HSET', KEYS[b], unpack(values))
      call('PEXPIRE', KEYS[b], string.format('%.0f', until_ms - now))
    end
  else
    call('HSET', KEYS[b], unpack(values))
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

local parts = {}
for from = 1, n_reply, CHUNK do
  local to = min(n_reply, from + CHUNK - 1)
  local format = to - from + 1 == CHUNK and CHUNK_FORMAT or '<' .. string.rep('d', to - from + 1)
  parts[#parts + 1] = pack(format, unpack(reply, from, to))
end
return table.concat(parts)
