-- placements: adds batches of placements to a pool's stream, and returns those added since a position.
--
-- KEYS  1  stream  batch; field b -> what the sidecars' indexes of prefixes encode
-- ARGV  1  position: the id of the last batch that the caller has read, or 0-0
--       2  maximum number of batches to return
--       3  approximate number of batches that the stream keeps
--       4  expiry of the stream, ms
--       5- batches to add
-- RETURNS { position for the next call, batch ... }. If the maximum number is returned, there may be more
-- ERRORS  none of its own
-- COST    O(batches added and returned)
-- LAYOUT  ek2; see docs/redis-layout.md

local call, key, position, count = redis.call, KEYS[1], ARGV[1], tonumber(ARGV[2])

local function is_after(a, b)
  local a_ms, a_n = a:match('^(%d+)-(%d+)$')
  local b_ms, b_n = b:match('^(%d+)-(%d+)$')
  if a_ms ~= b_ms then return tonumber(a_ms) > tonumber(b_ms) end
  return tonumber(a_n) > tonumber(b_n)
end

-- If Redis has lost the stream or its end, new ids may be smaller than the position: its clock may have been set back.
local last = call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
if not last then
  position = '0-0'
elseif is_after(position, last[1]) then
  position = last[1]
end

local reply = { position }
if last then
  local batches = call('XRANGE', key, '(' .. position, '+', 'COUNT', count)
  for i = 1, #batches do
    reply[1] = batches[i][1]
    reply[i + 1] = batches[i][2][2]
  end
end

-- A caller that has read everything does not read its own batches.
local has_all = #reply <= count
for i = 5, #ARGV do
  local id = call('XADD', key, 'MAXLEN', '~', ARGV[3], '*', 'b', ARGV[i])
  if has_all then reply[1] = id end
end
if #ARGV >= 5 then call('PEXPIRE', key, ARGV[4]) end
return reply
