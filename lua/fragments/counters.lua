-- counters: reads the strings of counters that a call uses, and writes those that changed.
--
-- PROVIDES  head            the numbers of ARGV[2]
--           rules, sets     by number; see ARGV. A set is a list of rules, with `names`
--           open(k, set)    returns the counters of KEYS[k], and the positions of the set's counters in them: 0 if a
--                           quota's record is of another kind
--           changed(k, ms)  marks the counters of KEYS[k] as changed; they matter until ms, or forever if 0
--           write_counters()
-- KEYS      first  string  counters of one key; see codec
-- ARGV      2      packed doubles: number of KEYS that are strings of counters; number of ARGV before the names; then
--                  the numbers of other fragments
--           3      packed doubles: rules, 7 numbers each: kind, flags (1 shadow, 2 provisional), five numbers of its
--                  algorithm, padded with 0
--           4      packed doubles: sets of counters of one key that a request uses together: n, n times
--                  { number of the name, number of the rule }
--           names  text, of limits and quotas

local RULE_NUMBERS = 7

local head = numbers_of(ARGV[2])
local n_keys, names_from = head[1], head[2]
local rules, sets = {}, {}

do
  local numbers = numbers_of(ARGV[3])
  for from = 1, #numbers, RULE_NUMBERS do
    local algorithm, flags = ALGORITHMS[numbers[from]], numbers[from + 1]
    local rule = { algorithm = algorithm, shadow = flags % 2 == 1, provisional = flags >= 2, room = algorithm.room,
      take = algorithm.take, read = algorithm.read, settle = algorithm.settle }
    algorithm.rule(rule, numbers, from + 1)
    rules[#rules + 1] = rule
  end
  local from = 1
  numbers = numbers_of(ARGV[4])
  while numbers[from] do
    local set, names, n = {}, {}, numbers[from]
    for i = 1, n do
      set[i], names[i] = rules[numbers[from + 2 * i]], ARGV[names_from + numbers[from + 2 * i - 1]]
    end
    set.names = names
    sets[#sets + 1] = set
    from = from + 2 * n + 1
  end
end

-- MGET returns a key of another type as absent.
local stored = n_keys > 0 and call('MGET', unpack(KEYS, 1, n_keys))
local counters, layouts_by_key, until_by_key = {}, {}, {}

-- Adds the missing counters of the set.
local function find(k, set)
  local c, layout = counters[k], layouts_by_key[k]
  local places, before
  repeat
    places, before = {}, layout
    for i = 1, #set do
      local name, algorithm = set.names[i], set[i].algorithm
      local quota = algorithm.quota or false
      local at = (quota and layout.quotas or layout.limits)[name]
      if at and layout.kind_at[at] == algorithm.kind then
        places[i] = at
      elseif at and quota then
        places[i] = 0
      else
        -- The limit has changed its kind, so it starts from 0.
        if at then layout = without_counter(layout, c, name, quota) end
        layout = with_counter(layout, c, name, algorithm)
      end
    end
  until layout == before
  layout.places[set], layouts_by_key[k] = places, layout
  return c, places
end

local function open(k, set)
  local c, layout = counters[k], layouts_by_key[k]
  if not c then
    c, layout = decode(stored[k])
    counters[k], layouts_by_key[k] = c, layout
  end
  local places = layout.places[set]
  if places then return c, places end
  return find(k, set)
end

local function changed(k, ms) until_by_key[k] = max(until_by_key[k] or now, ms) end

local function write_counters()
  for k, until_ms in pairs(until_by_key) do
    local c, layout = counters[k], layouts_by_key[k]
    if c[LASTING] == 1 then
      c[UNTIL] = max(c[UNTIL], until_ms)
      call('SET', KEYS[k], encode(c, layout))
    elseif until_ms <= c[UNTIL] then
      call('SET', KEYS[k], encode(c, layout), 'KEEPTTL')
    else
      c[UNTIL] = expiry_of(until_ms)
      call('SET', KEYS[k], encode(c, layout), 'PX', string.format('%.0f', c[UNTIL] - now))
    end
  end
end
