-- counters: reads the strings of counters that a call uses, and writes those that changed.
--
-- PROVIDES  numbers         of ARGV[2]
--           rules, shapes   by number; see ARGV. A shape is a list of sets, with `mode`, `running` and `counters`, the
--                           number of all its counters. A set is a list of rules, with `names`
--           first_number    position in `numbers` of the first number of the script
--           n_settlements   number of numbers of the settlements
--           n_keys, n_days  number of KEYS that are strings of counters, and that are hashes of records
--           ids_from        number of ARGV before the ids
--           open(k, set)    returns the counters of KEYS[k]; and for each rule of the set, the position of its counter
--                           and the rule to apply to it: other_kind if the quota's record is of another kind
--           changed(k, ms)  marks the counters of KEYS[k] as changed; they matter until ms, or forever if 0
--           write_counters()
-- KEYS      first  string  counters of one key; see codec
-- ARGV      2      packed doubles
--                    number of KEYS that are strings of counters; number of names; number of hashes of records; the
--                      number of numbers of the rules, the sets, the shapes and the settlements
--                    for each hash of records the number of ids
--                    rules, 7 numbers each: kind, flags (1 shadow, 2 provisional), five numbers of its algorithm,
--                      padded with 0
--                    sets of counters of one key that a request uses together: n, n times { number of the name,
--                      number of the rule }
--                    shapes of settlements and reservations: mode (0: take, 1: peek, 2: give back according to the
--                      record), number of zsets, n, n times the number of a set
--                    then the numbers of the script
--           then   names of limits and quotas. Then ids

local RULE_NUMBERS, HEAD_NUMBERS, FIXED_ARGV = 7, 7, 2

local KEYS, ARGV = KEYS, ARGV -- Lua reads locals faster than globals.
local numbers = numbers_of(ARGV[2])
local n_keys, n_days, n_settlements = numbers[1], numbers[3], numbers[7]
local ids_from = FIXED_ARGV + numbers[2]
local rules, sets, shapes, first_number = {}, {}, {}, HEAD_NUMBERS + n_days + 1

do
  local from, to = first_number, first_number + numbers[4]
  while from < to do
    local flags = numbers[from + 1]
    rules[#rules + 1] = ALGORITHMS[numbers[from]](numbers, from + 1, flags % 2 == 1, flags >= 2)
    from = from + RULE_NUMBERS
  end
  to = from + numbers[5]
  while from < to do
    local set, names, n = {}, {}, numbers[from]
    for i = 1, n do
      names[i], set[i] = ARGV[FIXED_ARGV + numbers[from + 2 * i - 1]], rules[numbers[from + 2 * i]]
    end
    set.names = names
    sets[#sets + 1], from = set, from + 2 * n + 1
  end
  to = from + numbers[6]
  while from < to do
    local n_running, n = numbers[from + 1], numbers[from + 2]
    local shape = { mode = numbers[from], running = n_running, counters = n_running }
    for g = 1, n do
      shape[g] = sets[numbers[from + 2 + g]]
      shape.counters = shape.counters + #shape[g]
    end
    shapes[#shapes + 1], from = shape, from + 3 + n
  end
  first_number = from
end

local counters, until_by_key = n_keys > 0 and call('MGET', unpack(KEYS, 1, n_keys)), {}
for k = 1, n_keys do
  local value = counters[k]
  if not value then is_absent(KEYS[k]) end
  counters[k] = decode(value)
end

-- Adds the missing counters of the set.
local function find(c, set)
  local places, before
  repeat
    places, before = {}, c[1]
    for i = 1, #set do
      local name, rule = set.names[i], set[i]
      local layout, quota = c[1], rule.record ~= nil
      local at = (quota and layout.quotas or layout.limits)[name]
      if at and layout.kind_at[at] == rule.kind then
        places[2 * i - 1], places[2 * i] = at, rule
      elseif at and quota then
        places[2 * i - 1], places[2 * i] = 0, other_kind(rule.shadow)
      else
        -- The limit has changed its kind, so it starts from 0.
        if at then without_counter(c, name, quota) end
        with_counter(c, name, rule)
      end
    end
  until c[1] == before
  before.places[set] = places
  return c, places
end

local function open(k, set)
  local c = counters[k]
  local places = c[1].places[set]
  if places then return c, places end
  return find(c, set)
end

local function changed(k, ms)
  local before = until_by_key[k]
  if not before or ms > before then until_by_key[k] = ms end
end

local function write_counters()
  local lasting, n = {}, 0
  for k = 1, n_keys do
    local until_ms = until_by_key[k]
    if until_ms then
      local c = counters[k]
      if until_ms < now then until_ms = now end
      local is_later = until_ms > c[UNTIL]
      if c[LASTING] == 1 then
        if is_later then c[UNTIL] = until_ms end
        lasting[n + 1], lasting[n + 2], n = KEYS[k], encode(c), n + 2
      elseif is_later then
        c[UNTIL] = expiry_of(until_ms)
        call('SET', KEYS[k], encode(c), 'PX', string.format('%.0f', c[UNTIL] - now))
      else
        call('SET', KEYS[k], encode(c), 'KEEPTTL')
      end
    end
  end
  -- One MSET costs a third of as many SET. Like SET, it removes the expiry of a key.
  if n > 0 then call('MSET', unpack(lasting)) end
end
