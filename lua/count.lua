-- count: settles and then reserves a batch of requests under limits and quotas, each in all of its counters or in none.
--
-- FRAGMENTS basics given_time algorithms codec edges window fixed_window sliding_window token_bucket concurrency
-- FRAGMENTS prepaid budget other_kind expiry other_types counters running filler reservations
-- KEYS      first   string  counters of one key; see codec
--           then    zset    in-flight requests under one concurrency limit; see running
--           then    hash    records of reservations; see reservations
-- ARGV      1       current time, ms; '' for Redis's clock
--           2       packed doubles: see counters; then settlements, each
--                     reservation or 0, shape, epoch of its record, number of the settler, negative if it leaves a
--                       mark, 0 to roll back (all leave a mark in place of a record that was made more than once),
--                     for each zset its number, from 1,
--                     for each set { number of a string, for each counter { window, reserved, actual } };
--                   then reservations, each
--                     reservation or 0, shape,
--                     for each zset { its number, from 1, rule, cost },
--                     for each set { number of a string, for each counter its cost }
--           then    names; see counters. Then ids; see reservations
-- RETURNS   packed doubles: now in ms; for each hash its epoch; for each settlement 0; or, if it was settled
--           before, 1, or 1 plus the number in a mark; for each reservation, its counters in the order of ARGV[2],
--             1, each counter                          admitted. REPLY of its algorithm describes a counter; a zset
--                                                      replies with the number of in-flight requests
--             2, each counter, each { window, taken }  admitted, if the request takes other amounts than its costs
--             0, each { 1 if over, retry ms, final ms }, each counter      refused
--             1, or 0 if there is no record            given back
-- ERRORS    Redis's own if a key has another type; no counter and no record changes
-- COST      O(counters + operations), and O(log running) for concurrency limits
-- LAYOUT    ek2; see docs/redis-layout.md

local reply, n_reply = { now, unpack(epochs) }, 1 + n_days
-- The next number to read.
local p, reservations_from, n_numbers = first_number, first_number + n_settlements, #numbers

-- Settlements.
while p < reservations_from do
  local r, shape, epoch, by = numbers[p], shapes[numbers[p + 1]], numbers[p + 2], numbers[p + 3]
  local result, lost, is_kept = 0, false, false
  p = p + 4
  if r > 0 then
    local before = record_of(r)
    local settler = before and settler_of(before)
    if settler then
      result = 1 + settler
    elseif before and by == 0 and is_shared(before) then
      -- Another sidecar has admitted the request.
      result, is_kept = 1, true
    elseif before and (by < 0 or is_shared(before)) then
      record(r, mark_of(by < 0 and -by or by))
    elseif before then
      forget(r)
    elseif epochs[day_of(r)] == epoch then
      result = 1
    else
      lost = true
      record(r, mark_of(by < 0 and -by or by))
    end
    -- A concurrent KeepAlive may have restored the request, so a repeated settlement removes it again. A settlement
    -- without a record comes from another layout of keys. Its request remains counted until its time to live ends.
    for i = p, is_kept and 0 or p + shape.running - 1 do call('ZREM', KEYS[n_keys + numbers[i]], id_of(r)) end
  end
  p = p + shape.running
  for g = 1, #shape do
    local k, set = numbers[p], shape[g]
    p = p + 1
    if result == 0 then
      local c, places = open(k, set)
      local latest = -1
      for i = 1, 2 * #set, 2 do
        local ms = places[i + 1].settle(c, places[i], numbers[p], lost and 0 or numbers[p + 1], numbers[p + 2])
        if ms and ms > latest then latest = ms end
        p = p + 3
      end
      if latest >= 0 then changed(k, latest) end
    else
      p = p + 3 * #set
    end
  end
  n_reply = n_reply + 1
  reply[n_reply] = result
end

-- For the current reservation: the amount to take from each counter, or false if the cost does not fit; the counters of
-- each set, and their places; the window and the taken amount of each counter.
local taken, c_of, places_of, pairs_of = {}, {}, {}, {}
-- The format of a record, by its number of counters.
local format_of = {}

local function make_record(r, n)
  local format = format_of[n] or '<' .. rep('d', 2 * n)
  format_of[n] = format
  record(r, pack(format, unpack(pairs_of, 1, 2 * n)))
end

-- Admits a reservation that takes from counters of one string, if all costs fit. Returns the position of the next
-- reservation, or nil if a cost does not fit. In that case, it takes nothing. `judge` and `admit` decide on any
-- reservation, but most reservations need only this function, which is faster.
local function admit_simple(q, set, r)
  local numbers, k, n = numbers, numbers[q], 2 * #set -- luacheck: ignore numbers
  local c, places = open(k, set)
  local from = q + 1
  q = from
  for i = 1, n, 2 do
    local cost = numbers[q]
    if places[i + 1].room(c, places[i], cost) ~= cost then return nil end
    q = q + 1
  end
  q = from
  local latest, reply, pairs_of, to = -1, reply, pairs_of, n_reply + 1 -- luacheck: ignore reply pairs_of
  reply[to] = 1
  for i = 1, n, 2 do
    local cost, ms = numbers[q] -- luacheck: ignore ms
    to, pairs_of[i], ms = places[i + 1].take(c, places[i], cost, reply, to)
    pairs_of[i + 1], q = cost, q + 1
    if ms and ms > latest then latest = ms end
  end
  n_reply = to
  if latest >= 0 then changed(k, latest) end
  if r > 0 then make_record(r, #set) end
  return q
end

-- Finds the amount to take from each counter. Returns whether the request fits into all counters, and the position of
-- the next reservation. `repeated`: whether the request was admitted before. `before`: the windows and amounts of the
-- earlier admission.
local function judge(q, shape, repeated, before)
  local n, admitted = 0, true
  for _ = 1, shape.running do
    local rule, most = rules[numbers[q + 1]], numbers[q + 2]
    local fits = running(numbers[q]) + most <= rule.amount or repeated or rule.shadow
    n = n + 1
    if before then
      most = before[2 * n]
    elseif not fits then
      most, admitted = false, false
    end
    taken[n], q = most, q + 3
  end
  for g = 1, #shape do
    local c, places = open(numbers[q], shape[g])
    c_of[g], places_of[g], q = c, places, q + 1
    for i = 1, 2 * #shape[g], 2 do
      local at, rule, cost = places[i], places[i + 1], numbers[q]
      local most = rule.room(c, at, cost)
      n, q = n + 1, q + 1
      if before then
        most = before[2 * n]
      elseif not most then
        if repeated or rule.shadow then
          local at_most = rule.at_most
          most = at_most and at_most(c, at, cost) or cost
        else
          most, admitted = false, false
        end
      end
      taken[n] = most
    end
  end
  return admitted, q
end

-- Takes the amounts, unless the call only peeks, and appends the reply.
local function admit(q, shape, r, takes, before)
  local n, as_asked, to = 0, not before, n_reply + 1
  for _ = 1, shape.running do
    local k, rule = numbers[q], rules[numbers[q + 1]]
    if takes then run(k, rule, id_of(r)) end
    n, to, q = n + 1, to + 1, q + 3
    pairs_of[2 * n - 1], pairs_of[2 * n], reply[to] = 0, taken[n], running(k)
  end
  for g = 1, #shape do
    local k, c, places = numbers[q], c_of[g], places_of[g]
    local latest = -1
    q = q + 1
    for i = 1, 2 * #shape[g], 2 do
      local most, ms = taken[n + 1] -- luacheck: ignore ms
      n = n + 1
      if most ~= numbers[q] then as_asked = false end
      to, pairs_of[2 * n - 1], ms = places[i + 1].take(c, places[i], takes and most or nil, reply, to)
      pairs_of[2 * n], q = most, q + 1
      if ms and ms > latest then latest = ms end
    end
    if takes and latest >= 0 then changed(k, latest) end
  end
  reply[n_reply + 1], n_reply = as_asked and 1 or 2, to
  if not as_asked then
    local list = before or pairs_of
    for i = 1, 2 * n do reply[n_reply + i] = list[i] end
    n_reply = n_reply + 2 * n
  end
  if takes and r > 0 then make_record(r, n) end
end

local function refuse(q, shape)
  local n, to, start = 0, n_reply + 1, q
  reply[to] = 0
  for _ = 1, shape.running do
    n, q = n + 1, q + 3
    reply[to + 1], reply[to + 2], reply[to + 3], to = taken[n] and 0 or 1, 0, 0, to + 3
  end
  for g = 1, #shape do
    local c, places = c_of[g], places_of[g]
    q = q + 1
    for i = 1, 2 * #shape[g], 2 do
      n = n + 1
      reply[to + 1] = taken[n] and 0 or 1
      reply[to + 2], reply[to + 3] = places[i + 1].retry(c, places[i], numbers[q])
      to, q = to + 3, q + 1
    end
  end
  for i = 1, shape.running do
    to = to + 1
    reply[to] = running(numbers[start + 3 * (i - 1)])
  end
  for g = 1, #shape do
    local c, places = c_of[g], places_of[g]
    for i = 1, 2 * #shape[g], 2 do to = places[i + 1].take(c, places[i], nil, reply, to) end
  end
  n_reply = to
end

-- Gives back the amounts in the record. Returns the position of the next reservation. A request under a concurrency
-- limit remains counted until its time to live ends.
local function give_back(q, shape, r, before)
  local n = shape.running
  q = q + 3 * n
  for g = 1, #shape do
    local k, set = numbers[q], shape[g]
    local c, places = open(k, set)
    for i = 1, 2 * #set, 2 do
      n = n + 1
      if before then
        local ms = places[i + 1].settle(c, places[i], before[2 * n - 1], before[2 * n], 0)
        if ms then changed(k, ms) end
      end
    end
    q = q + #set + 1
  end
  if before then forget(r) end
  n_reply = n_reply + 1
  reply[n_reply] = before and 1 or 0
  return q
end

while p <= n_numbers do
  local r, shape = numbers[p], shapes[numbers[p + 1]]
  local repeated, before, next_p = r > 0 and record_of(r), nil, nil
  p = p + 2
  if not repeated and shape.mode == 0 and shape.running == 0 and #shape == 1 then
    next_p = admit_simple(p, shape[1], r)
  end
  -- If the limits have changed since the request was admitted, the record does not apply.
  if repeated then before = numbers_in(repeated, shape.counters) end
  -- Whoever made it first must not give it back.
  if before and shape.mode == 0 and not is_shared(repeated) then record(r, shared(repeated)) end
  if shape.mode == 2 then
    next_p = give_back(p, shape, r, before and not is_shared(repeated) and before or nil)
  elseif not next_p then
    local admitted
    admitted, next_p = judge(p, shape, repeated, before)
    if admitted then
      admit(p, shape, r, not repeated and shape.mode == 0, before)
    else
      refuse(p, shape)
    end
  end
  p = next_p
end

-- All reads are done; writes follow.
check_absent()
write_counters()
write_running()
write_reservations()
return packed_of(reply)
