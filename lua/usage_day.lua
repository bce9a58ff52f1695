-- usage_day: adds the sums of one flush to a day, once.
--
-- FRAGMENTS filler
-- KEYS  1       hash    consumer, model and route, separated by 0x1F -> seven counts, MessagePack
--       2       zset    consumer and session, separated by 0x1F -> tokens
--       3       hash    consumer and session -> { ms of the last turn, seven counts }, MessagePack
--       4       string  number of the last flush of this instance that was applied here
-- ARGV  1       number of this flush; rises. The sidecar sends the next flush only after this one has been applied
--       2       expiry of the keys, ms; set on keys without one
--       3       number of rows at which new rows are folded into `(other)` of their model
--       4       maximum number of rows
--       5       maximum number of sessions
--       6       number of sessions that remain if there are more than the maximum
--       7       maximum number of sessions dropped at once
--       8       MessagePack: { rows, counts of rows, sessions, { ms, counts } of sessions }; the numbers flat, no row
--               and no session twice, at most 1000 of each
-- RETURNS       { 1, requests folded, sessions dropped }
--               { 0, 0, 0 } if this flush, or a later one, has been applied before
-- ERRORS        none of its own. The script reads every key before it writes, so that a key of another type fails the
--               call before it has added anything. It writes the number of the flush first, so that a call that loses
--               its rights midway is not repeated
-- The field '' of a hash is neither a row nor a session; see filler.
-- COST          O(rows + sessions * log(sessions of the day)), and the same for dropped sessions
-- LAYOUT        ek2; see docs/redis-layout.md

local OTHER, SEPARATOR, COUNTS, COUNT_MAX = '(other)', '\31', 7, 9007199254740991

local call, pack, unpacked = redis.call, cmsgpack.pack, cmsgpack.unpack
local sequence, own_max, rows_max = tonumber(ARGV[1]), tonumber(ARGV[3]), tonumber(ARGV[4])
if tonumber(call('GET', KEYS[4]) or 0) >= sequence then return { 0, 0, 0 } end

local batch = unpacked(ARGV[8])
local rows, counts, sessions, sums = batch[1], batch[2], batch[3], batch[4]

local function add(sum, first, from, at)
  for k = 0, COUNTS - 1 do
    sum[first + k] = math.min((sum[first + k] or 0) + from[at + k], COUNT_MAX)
  end
end

-- Rows: finds existing rows and adds new ones.
local order, sum_of, folded = {}, {}, 0
if #rows > 0 then
  local found, fields = call('HMGET', KEYS[1], unpack(rows)), call('HLEN', KEYS[1])
  if fields > 0 then fields = fields - 1 end -- the filler
  local function place(name, value)
    local sum = value and unpacked(value) or {}
    if not value then fields = fields + 1 end
    sum_of[name], order[#order + 1] = sum, name
    return sum
  end
  for i = 1, #rows do
    local name = rows[i]
    local sum = sum_of[name]
    if not sum then
      if found[i] or fields < own_max then
        sum = place(name, found[i])
      else
        folded = folded + counts[(i - 1) * COUNTS + 1]
        local model = string.match(name, SEPARATOR .. '([^' .. SEPARATOR .. ']*)') or ''
        name = OTHER .. SEPARATOR .. model .. SEPARATOR .. OTHER
        local value = not sum_of[name] and call('HGET', KEYS[1], name)
        if not sum_of[name] and not value and fields >= rows_max - 1 then
          name = OTHER .. SEPARATOR .. OTHER .. SEPARATOR .. OTHER
          value = not sum_of[name] and call('HGET', KEYS[1], name)
        end
        sum = sum_of[name] or place(name, value)
      end
    end
    add(sum, 1, counts, (i - 1) * COUNTS + 1)
  end
end

-- Sessions.
local totals, scores = { '', FILLER }, {}
if #sessions > 0 then
  local found = call('HMGET', KEYS[3], unpack(sessions))
  call('ZCARD', KEYS[2])
  for i = 1, #sessions do
    local at = (i - 1) * (COUNTS + 1) + 1
    local total = found[i] and unpacked(found[i]) or { 0 }
    total[1] = math.max(total[1], sums[at])
    add(total, 2, sums, at + 1)
    totals[#totals + 1], totals[#totals + 2] = sessions[i], pack(total)
    -- Input and output: the third and fourth count.
    scores[#scores + 1], scores[#scores + 2] = math.min(total[4] + total[5], COUNT_MAX), sessions[i]
  end
end

-- All reads are done; writes follow.
local function expire(key)
  if call('PTTL', key) < 0 then call('PEXPIRE', key, ARGV[2]) end
end
call('SET', KEYS[4], ARGV[1], 'PX', ARGV[2])
if #order > 0 then
  local set = { '', FILLER }
  for i = 1, #order do set[2 * i + 1], set[2 * i + 2] = order[i], pack(sum_of[order[i]]) end
  call('HSET', KEYS[1], unpack(set))
  expire(KEYS[1])
end
local dropped = 0
if #sessions > 0 then
  call('HSET', KEYS[3], unpack(totals))
  call('ZADD', KEYS[2], unpack(scores))
  local there = call('ZCARD', KEYS[2])
  if there > tonumber(ARGV[5]) then
    local least = call('ZRANGE', KEYS[2], 0, math.min(there - tonumber(ARGV[6]), tonumber(ARGV[7])) - 1)
    dropped = #least
    call('ZREM', KEYS[2], unpack(least))
    call('HDEL', KEYS[3], unpack(least))
  end
  expire(KEYS[2])
  expire(KEYS[3])
end
return { 1, folded, dropped }
