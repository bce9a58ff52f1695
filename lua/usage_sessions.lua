-- usage_sessions: adds the turns of one flush to the sessions of one part, once, and returns the sessions to delete.
--
-- FRAGMENTS filler
-- KEYS  1       zset    consumer and session, separated by 0x1F -> ms of the last turn, by the sidecar's clock
--       2       hash    consumer and session -> { ms of the last turn, seven counts }, MessagePack
--       3       string  number of the last flush of this instance that was applied here
--       4..     list    turns of one session, MessagePack; one key per session
-- ARGV  1       number of this flush; rises. The sidecar sends the next flush only after this one has been applied
--       2       expiry of the keys, ms
--       3       maximum number of sessions of this part
--       4       maximum number of turns of a session
--       5       ms: sessions with no turn since then are old
--       6       maximum number of sessions returned at once
--       7       MessagePack: { sessions, { ms, counts } of sessions, number of turns of each }; the numbers flat, no
--               session twice, at most 1000 of them, and 1000 turns of each
--       8..     turns, MessagePack, session by session
-- RETURNS       { 1, too many, sessions and their ms ... }
--               { 0, too many, sessions and their ms ... } if this flush, or a later one, has been applied before
--               too many: 1 if the part has too many sessions, 0 if the returned ones are old. The sidecar then calls
--               usage_forget with them, as this script does not have the keys of their turns
-- ERRORS        none of its own; as usage_day
-- The field '' of the hash is not a session; see filler.
-- COST          O(turns + sessions * log(sessions of the part))
-- LAYOUT        ek2; see docs/redis-layout.md

local COUNTS, COUNT_MAX = 7, 9007199254740991

local call, pack, unpacked = redis.call, cmsgpack.pack, cmsgpack.unpack
local expiry_ms, turns_max = ARGV[2], tonumber(ARGV[4])

local function apply()
  local batch = unpacked(ARGV[7])
  local sessions, sums, turns = batch[1], batch[2], batch[3]
  if #sessions == 0 then return end
  local found = call('HMGET', KEYS[2], unpack(sessions))
  call('ZCARD', KEYS[1])
  local totals, scores = { '', FILLER }, {}
  for i = 1, #sessions do
    local at = (i - 1) * (COUNTS + 1) + 1
    local total = found[i] and unpacked(found[i]) or { 0 }
    total[1] = math.max(total[1], sums[at])
    for k = 1, COUNTS do
      total[k + 1] = math.min((total[k + 1] or 0) + sums[at + k], COUNT_MAX)
    end
    totals[#totals + 1], totals[#totals + 2] = sessions[i], pack(total)
    scores[#scores + 1], scores[#scores + 2] = total[1], sessions[i]
  end
  for i = 1, #sessions do call('LLEN', KEYS[i + 3]) end

  -- All reads are done; writes follow.
  call('SET', KEYS[3], ARGV[1], 'PX', expiry_ms)
  call('HSET', KEYS[2], unpack(totals))
  call('ZADD', KEYS[1], unpack(scores))
  call('PEXPIRE', KEYS[1], expiry_ms)
  call('PEXPIRE', KEYS[2], expiry_ms)
  local from = 8
  for i = 1, #sessions do
    local to = from + turns[i] - 1
    if to >= from then
      if call('RPUSH', KEYS[i + 3], unpack(ARGV, from, to)) > turns_max then
        call('LTRIM', KEYS[i + 3], -turns_max, -1)
      end
      call('PEXPIRE', KEYS[i + 3], expiry_ms)
    end
    from = to + 1
  end
end

local reply = { 0, 0 }
if tonumber(call('GET', KEYS[3]) or 0) < tonumber(ARGV[1]) then
  apply()
  reply[1] = 1
end

local excess, at_once = call('ZCARD', KEYS[1]) - tonumber(ARGV[3]), tonumber(ARGV[6])
local gone
if excess > 0 then
  reply[2] = 1
  gone = call('ZRANGE', KEYS[1], 0, math.min(excess, at_once) - 1, 'WITHSCORES')
else
  gone = call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[5], 'WITHSCORES', 'LIMIT', 0, at_once)
end
for i = 1, #gone do reply[i + 2] = gone[i] end
return reply
