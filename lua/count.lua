-- count: settles and then reserves a batch of requests under limits and quotas, each in all of its counters or in none.
--
-- FRAGMENTS basics given_time algorithms codec edges window fixed_window sliding_window token_bucket concurrency
-- FRAGMENTS prepaid budget other_kind expiry counters running filler reservations
-- KEYS      first   string  counters of one key; see codec
--           then    zset    in-flight requests under one concurrency limit; see running
--           then    hash    records of reservations; see reservations
-- ARGV      1       current time, ms; '' for Redis's clock
--           2..4    packed doubles: see counters and reservations
--           5       settlements, packed doubles, each
--                     reservation or 0, epoch of its record, z, g,
--                     z times the number of a zset, from 1,
--                     g times { number of a string, set, for each counter { window, reserved, actual } }
--           6       reservations, packed doubles, each
--                     reservation or 0, mode (0: take, 1: peek, 2: give back according to the record), z, g,
--                     z times { number of a zset, from 1, rule, cost },
--                     g times { number of a string, set, for each counter its cost }
--           then    names; see counters. Then ids; see reservations
-- RETURNS   packed doubles: now in ms; for each hash its epoch; for each settlement 1, or 0 if it was settled
--           before; for each reservation, its counters in the order of ARGV[6],
--             1, each counter                          admitted. REPLY of its algorithm describes a counter; a zset
--                                                      replies with the number of in-flight requests
--             2, each counter, each { window, taken }  admitted, if the request takes other amounts than its costs
--             0, each { 1 if over, retry ms, final ms }, each counter      refused
--             1, or 0 if there is no record            given back
-- ERRORS    none of its own
-- COST      O(counters + operations), and O(log running) for concurrency limits
-- LAYOUT    ek2; see docs/redis-layout.md

local settlements, reservations = numbers_of(ARGV[5]), numbers_of(ARGV[6])
local reply, n_reply = { now, unpack(epochs) }, 1 + n_days

-- Settlements. p: the next number to read.
local p = 1
while settlements[p] do
  local r, epoch = settlements[p], settlements[p + 1]
  local n_running, n_groups = settlements[p + 2], settlements[p + 3]
  local first, lost = true, false
  p = p + 4
  if r > 0 then
    local before = recorded[r]
    if before and before ~= SETTLED then
      forget(r)
    elseif before or epochs[day_of[r]] == epoch then
      first = false
    else
      lost = true
      record(r, SETTLED)
    end
    -- A concurrent KeepAlive may have restored the request, so a repeated settlement removes it again. A settlement
    -- without a record comes from another layout of keys. Its request remains counted until its time to live ends.
    for i = p, p + n_running - 1 do call('ZREM', KEYS[n_keys + settlements[i]], id_of(r)) end
  end
  p = p + n_running
  for _ = 1, n_groups do
    local k, set = settlements[p], sets[settlements[p + 1]]
    p = p + 2
    if first then
      local c, places = open(k, set)
      local latest
      for i = 1, #set do
        local rule, at = set[i], places[i]
        local settle = at > 0 and rule.settle or OTHER_KIND.settle
        local reserved = lost and 0 or settlements[p + 1]
        local ms = settle(c, at, rule, settlements[p], reserved, settlements[p + 2])
        if ms and (not latest or ms > latest) then latest = ms end
        p = p + 3
      end
      if latest then changed(k, latest) end
    else
      p = p + 3 * #set
    end
  end
  n_reply = n_reply + 1
  reply[n_reply] = first and 1 or 0
end

-- For the current reservation: the amount to take from each counter, or false if the cost does not fit; the counters of
-- each group, and the positions of its set's counters in them; the window and the taken amount of each counter.
local taken, c_of, places_of, pairs_of = {}, {}, {}, {}

-- Finds the amount to take from each counter. Returns whether the request fits into all counters, and the position of
-- the next reservation. `repeated`: whether the request was admitted before. `before`: the windows and amounts of the
-- earlier admission.
local function judge(q, n_running, n_groups, repeated, before)
  local n, admitted = 0, true
  for _ = 1, n_running do
    local rule, most = rules[reservations[q + 1]], reservations[q + 2]
    local fits = running(reservations[q]) + most <= rule.amount or repeated or rule.shadow
    n = n + 1
    if before then
      most = before[2 * n]
    elseif not fits then
      most, admitted = false, false
    end
    taken[n], q = most, q + 3
  end
  for g = 1, n_groups do
    local set = sets[reservations[q + 1]]
    local c, places = open(reservations[q], set)
    c_of[g], places_of[g], q = c, places, q + 1
    for i = 1, #set do
      local rule, at, cost = set[i], places[i], reservations[q + i]
      local room = at > 0 and rule.room or OTHER_KIND.room
      local most = room(c, at, rule, cost)
      n = n + 1
      if before then
        most = before[2 * n]
      elseif not most then
        if repeated or rule.shadow then
          local at_most = at > 0 and rule.algorithm.at_most or at == 0 and OTHER_KIND.at_most
          most = at_most and at_most(c, at, rule, cost) or cost
        else
          most, admitted = false, false
        end
      end
      taken[n] = most
    end
    q = q + #set + 1
  end
  return admitted, q
end

-- Takes the amounts, unless the call only peeks, and appends the reply.
local function admit(q, n_running, n_groups, r, takes, before)
  local n, as_asked, to = 0, not before, n_reply + 1
  for _ = 1, n_running do
    local k, rule = reservations[q], rules[reservations[q + 1]]
    if takes then run(k, rule, id_of(r)) end
    n, to, q = n + 1, to + 1, q + 3
    pairs_of[2 * n - 1], pairs_of[2 * n], reply[to] = 0, taken[n], running(k)
  end
  for g = 1, n_groups do
    local k, set, c, places = reservations[q], sets[reservations[q + 1]], c_of[g], places_of[g]
    local latest
    q = q + 1
    for i = 1, #set do
      local rule, at, most = set[i], places[i], taken[n + 1]
      local algorithm = at > 0 and rule or OTHER_KIND
      n = n + 1
      if most ~= reservations[q + i] then as_asked = false end
      if takes then
        local ms = algorithm.take(c, at, rule, most)
        if ms and (not latest or ms > latest) then latest = ms end
      end
      to, pairs_of[2 * n - 1] = algorithm.read(c, at, rule, reply, to)
      pairs_of[2 * n] = most
    end
    if latest then changed(k, latest) end
    q = q + #set + 1
  end
  reply[n_reply + 1], n_reply = as_asked and 1 or 2, to
  if not as_asked then
    local list = before or pairs_of
    for i = 1, 2 * n do reply[n_reply + i] = list[i] end
    n_reply = n_reply + 2 * n
  end
  if takes and r > 0 then record(r, pack('<' .. rep('d', 2 * n), unpack(pairs_of, 1, 2 * n))) end
end

local function refuse(q, n_running, n_groups)
  local n, to, start = 0, n_reply + 1, q
  reply[to] = 0
  for _ = 1, n_running do
    n, q = n + 1, q + 3
    reply[to + 1], reply[to + 2], reply[to + 3], to = taken[n] and 0 or 1, 0, 0, to + 3
  end
  for g = 1, n_groups do
    local set, c, places = sets[reservations[q + 1]], c_of[g], places_of[g]
    q = q + 1
    for i = 1, #set do
      local rule, at = set[i], places[i]
      local algorithm = at > 0 and rule.algorithm or OTHER_KIND
      n = n + 1
      reply[to + 1] = taken[n] and 0 or 1
      reply[to + 2], reply[to + 3] = algorithm.retry(c, at, rule, reservations[q + i])
      to = to + 3
    end
    q = q + #set + 1
  end
  q = start
  for _ = 1, n_running do
    to = to + 1
    reply[to], q = running(reservations[q]), q + 3
  end
  for g = 1, n_groups do
    local set, c, places = sets[reservations[q + 1]], c_of[g], places_of[g]
    for i = 1, #set do
      local algorithm = places[i] > 0 and set[i] or OTHER_KIND
      to = algorithm.read(c, places[i], set[i], reply, to)
    end
    q = q + #set + 2
  end
  n_reply = to
end

-- Gives back the amounts in the record. Returns the position of the next reservation. A request under a concurrency
-- limit remains counted until its time to live ends.
local function give_back(q, n_running, n_groups, r, before)
  local n = n_running
  q = q + 3 * n_running
  for _ = 1, n_groups do
    local k, set = reservations[q], sets[reservations[q + 1]]
    local c, places = open(k, set)
    for i = 1, #set do
      local settle = places[i] > 0 and set[i].settle or OTHER_KIND.settle
      n = n + 1
      if before then
        local ms = settle(c, places[i], set[i], before[2 * n - 1], before[2 * n], 0)
        if ms then changed(k, ms) end
      end
    end
    q = q + #set + 2
  end
  if before then forget(r) end
  n_reply = n_reply + 1
  reply[n_reply] = before and 1 or 0
  return q
end

-- Returns the number of counters of the reservation at q.
local function counters_in(q, n_running, n_groups)
  local n = n_running
  q = q + 3 * n_running
  for _ = 1, n_groups do
    local size = #sets[reservations[q + 1]]
    n, q = n + size, q + size + 2
  end
  return n
end

p = 1
while reservations[p] do
  local r, mode = reservations[p], reservations[p + 1]
  local n_running, n_groups = reservations[p + 2], reservations[p + 3]
  local repeated, before = r > 0 and recorded[r], nil
  p = p + 4
  -- If the limits have changed since the request was admitted, the record does not apply.
  if repeated and #repeated == 16 * counters_in(p, n_running, n_groups) then before = numbers_of(repeated) end
  if mode == 2 then
    p = give_back(p, n_running, n_groups, r, before)
  else
    local admitted, next_p = judge(p, n_running, n_groups, repeated, before)
    if admitted then
      admit(p, n_running, n_groups, r, not repeated and mode == 0, before)
    else
      refuse(p, n_running, n_groups)
    end
    p = next_p
  end
end

-- All reads are done; writes follow.
write_counters()
write_running()
write_reservations()
return packed_of(reply)
