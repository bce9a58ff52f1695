-- quota: reads or changes one consumer's record in one quota, and keeps the last changes. Applies each change id once.
--
-- FRAGMENTS basics algorithms codec edges window prepaid budget
-- KEYS  1  string  counters of the consumer; see codec
--       2  list    changes of this record, newest first: lines of id, ms, what, before, after, who, note
-- ARGV  1  read, set, adjust or delete
--       2  name of the quota
--       3  rule, packed doubles: kind, five numbers of its algorithm
--       4  set: balance or amount; adjust: the difference, which may be negative; else 0
--       5  largest balance or amount
--       6  id of the change
--       7  who
--       8  note
-- RETURNS { status, now in ms, before, after, 1 if there is a record, used, reserved, overrun,
--           balance or amount on record or -1 }
--         status: 1 read or changed; 0 a change with this id was made before; -1 there is nothing to delete. before and
--         after: balance or amount that applies. used: for a budget, includes reservations
-- ERRORS  none of its own
-- COST    O(counters of the consumer); O(stored changes) to look for the id
-- LAYOUT  ek2; see docs/redis-layout.md

-- Equals the store's CHANGES_MAX. The changes expire later than any period of a quota ends.
local CHANGES_MAX, CHANGES_MS = 100, 400 * 86400000

local what, name, value, most, id = ARGV[1], ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local numbers = numbers_of(ARGV[3])
local rule, default = ALGORITHMS[numbers[1]](numbers, 1, false, false), max(0, numbers[2])

local c = decode(call('GET', KEYS[1]))
local at = c[1].quotas[name]
local is_of_kind = at and c[1].kind_at[at] == rule.kind

-- Returns the balance or amount on record, or -1, and the used, reserved and overrun amounts.
local function figures()
  if not is_of_kind then return -1, 0, 0, 0 end
  local used, reserved, overrun = rule.figures(c, at)
  return rule.level(c, at), used, reserved, overrun
end

local function answer(status, before)
  local level, used, reserved, overrun = figures()
  local after = level >= 0 and level or default
  return { status, now, before or after, after, level >= 0 and 1 or 0, used, reserved, overrun, level }
end

-- Whether a quota has a balance or an amount on record.
local function is_lasting()
  for _, place in pairs(c[1].quotas) do
    if c[place + RECORD[c[1].kind_at[place]]] >= 0 then return true end
  end
  return false
end

if what == 'read' then return answer(1) end

for _, change in ipairs(call('LRANGE', KEYS[2], 0, CHANGES_MAX - 1)) do
  if sub(change, 1, #id + 1) == id .. '\n' then return answer(0) end
end
local level, used = figures()
if what == 'delete' and level < 0 then return answer(-1) end
local before = level >= 0 and level or default

if what == 'delete' then
  if rule.kind == BUDGET and used > 0 then
    c[at + rule.record] = -1
    c[UNTIL] = max(c[UNTIL], rule.stop)
  else
    without_counter(c, name, true)
    is_of_kind = false
  end
  c[LASTING] = is_lasting() and 1 or 0
  local left_ms = c[UNTIL] - now
  if c[LASTING] == 1 then
    call('SET', KEYS[1], encode(c))
  elseif left_ms > 0 then
    call('SET', KEYS[1], encode(c), 'PX', string.format('%.0f', left_ms))
  else
    call('DEL', KEYS[1])
  end
else
  if at and not is_of_kind then without_counter(c, name, true) end
  if not is_of_kind then
    with_counter(c, name, rule)
    at, is_of_kind = c[1].quotas[name], true
    rule.figures(c, at)
  end
  c[at + rule.record] = min(most, max(0, what == 'set' and value or before + value))
  c[LASTING] = 1
  call('SET', KEYS[1], encode(c))
end

local reply = answer(1, before)
local lines = { id, string.format('%.0f', now), what, string.format('%.0f', before),
  string.format('%.0f', reply[4]), ARGV[7], ARGV[8] }
call('LPUSH', KEYS[2], table.concat(lines, '\n'))
call('LTRIM', KEYS[2], 0, CHANGES_MAX - 1)
call('PEXPIRE', KEYS[2], CHANGES_MS)
return reply
