-- change: appends an administrator's change to the change log, once.
--
-- FRAGMENTS basics
-- KEYS  1  list    changes, newest first: lines of id, ms, what, who, target, before, after, note
-- ARGV  1  id. The call does nothing if one of the last 16 changes has the same id
--       2  what
--       3  who
--       4  target
--       5  before
--       6  after
--       7  note
--       8  maximum number of changes
-- RETURNS { 1, now in ms } if added; { 0, now in ms } if the list already contains the change
-- ERRORS  none of its own
-- COST    O(1)
-- LAYOUT  ek2; see docs/redis-layout.md

local id = ARGV[1]

for _, entry in ipairs(call('LRANGE', KEYS[1], 0, 15)) do
  if string.sub(entry, 1, #id + 1) == id .. '\n' then return { 0, now } end
end
local lines = { id, string.format('%.0f', now), ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7] }
call('LPUSH', KEYS[1], table.concat(lines, '\n'))
call('LTRIM', KEYS[1], 0, tonumber(ARGV[8]) - 1)
return { 1, now }
