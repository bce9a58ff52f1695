-- quota: reads or changes one consumer's record in one quota, and keeps the history of its changes.
--
-- KEYS  1  hash    records of one consumer: name of a quota -> packed counter, as lua/count.lua describes; the field
--                  '' holds the time this hash expires, ms, or -1
--       2  list    changes of this record, newest first: lines of id, ms, what, before, after, who, note
-- ARGV  1  read, set, adjust or delete
--       2  name of the quota
--       3  prepaid or budget
--       4  default, or -1
--       5  new balance or amount; what to add, negative to take away; else 0
--       6  most that a balance or amount can be
--       7  id of the change
--       8  who
--       9  note
--       10 of a budget: length of its windows, ms; or with 11, 12 and 13 edges of windows around now
-- RETURNS { status, now, before, after, recorded, used, reserved, overrun, balance or amount on record or -1 }
--         status: 1 read or changed; 0 a change with this id was made before; -1 nothing to delete. Before and after:
--         balance or amount in force. Used: of a budget with what is reserved. The rest as it is afterwards
-- ERRORS  none of its own
-- COST    O(1); O(changes kept) for the id; O(quotas of the consumer) for delete
-- LAYOUT  ek1; see docs/redis-layout.md

local DAY_MS = 86400000
-- As many as the store's CHANGES_MAX, kept longer than anything a quota counts by.
local CHANGES_MAX, CHANGES_MS = 100, 400 * DAY_MS
-- Without records for good a hash stays as long as the longest period may have begun.
local REST_MS = 366 * DAY_MS
local FORMAT = { prepaid = '<dddddd', budget = '<dddd' }

local call, floor, max, min = redis.call, math.floor, math.max, math.min
local what, name, kind, default = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local value, most, id = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local format = FORMAT[kind]
local time = call('TIME')
local now = time[1] * 1000 + floor(time[2] / 1000)
local today = floor(now / DAY_MS)

local function window_start()
  local length, edge = tonumber(ARGV[10]), tonumber(ARGV[11])
  if not edge then return now - now % length end
  if now < edge then return length end
  local after = tonumber(ARGV[12])
  return now < after and edge or after
end

local packed = call('HGET', KEYS[1], name)
local state = packed and #packed == struct.size(format) and { struct.unpack(format, packed) }

-- Balance or amount on record, or -1; used, reserved, overrun.
local function figures()
  if not state then return -1, 0, 0, 0 end
  if kind == 'budget' then return state[4], state[2], state[3], 0 end
  return state[1], state[2], state[5] + state[6], state[3]
end

if state and kind == 'prepaid' and state[4] ~= today then
  state[6] = state[4] == today - 1 and state[5] or 0
  state[4], state[5] = today, 0
elseif kind == 'budget' then
  local start = window_start()
  state = state or { start, 0, 0, -1 }
  if state[1] ~= start then state[1], state[2], state[3] = start, 0, 0 end
end

local function answer(status, before)
  local level, used, reserved, overrun = figures()
  local after = level >= 0 and level or max(0, default)
  return { status, now, before or after, after, level >= 0 and 1 or 0, used, reserved, overrun, level }
end

if what == 'read' then return answer(1) end

for _, change in ipairs(call('LRANGE', KEYS[2], 0, CHANGES_MAX - 1)) do
  if string.sub(change, 1, #id + 1) == id .. '\n' then return answer(0) end
end
local level = figures()
if what == 'delete' and level < 0 then return answer(-1) end
local before = level >= 0 and level or max(0, default)

if what == 'delete' then
  if kind == 'budget' and state[2] > 0 then
    state[4] = -1
    call('HSET', KEYS[1], name, struct.pack(format, unpack(state, 1, 4)))
  else
    state = kind == 'budget' and { state[1], 0, 0, -1 } or nil
    call('HDEL', KEYS[1], name)
  end
  local fields, lasting, rest = call('HGETALL', KEYS[1]), false, false
  for i = 1, #fields, 2 do
    local other = fields[i + 1]
    if fields[i] ~= '' then
      rest = true
      lasting = lasting or #other == struct.size(FORMAT.prepaid)
        or #other == struct.size(FORMAT.budget) and select(4, struct.unpack(FORMAT.budget, other)) >= 0
    end
  end
  if not rest then
    call('DEL', KEYS[1])
  elseif not lasting then
    call('HSET', KEYS[1], '', string.format('%.0f', now + REST_MS))
    call('PEXPIRE', KEYS[1], REST_MS)
  end
else
  level = min(most, max(0, what == 'set' and value or before + value))
  if kind == 'budget' then
    state[4] = level
  else
    state = state or { 0, 0, 0, today, 0, 0 }
    state[1] = level
  end
  call('HSET', KEYS[1], name, struct.pack(format, unpack(state, 1, struct.size(format) / 8)), '', '-1')
  call('PERSIST', KEYS[1])
end

local reply = answer(1, before)
local lines = { id, string.format('%.0f', now), what, string.format('%.0f', before),
  string.format('%.0f', reply[4]), ARGV[8], ARGV[9] }
call('LPUSH', KEYS[2], table.concat(lines, '\n'))
call('LTRIM', KEYS[2], 0, CHANGES_MAX - 1)
call('PEXPIRE', KEYS[2], CHANGES_MS)
return reply
