-- usage_forget: deletes sessions that had no turn since usage_sessions returned them.
--
-- KEYS  1       zset    consumer and session, separated by 0x1F -> ms of the last turn
--       2       hash    consumer and session -> { ms of the last turn, seven counts }, MessagePack
--       3..     list    turns of one session; one key per session
-- ARGV  1..     for each of KEYS 3.. the session, and its ms from usage_sessions
-- RETURNS       { sessions deleted }
-- ERRORS        none of its own
-- COST          O(sessions given * log(sessions of the part) + their turns)
-- LAYOUT        ek2; see docs/redis-layout.md

local call, forgotten = redis.call, 0
for k = 3, #KEYS do
  local session, ms = ARGV[2 * k - 5], ARGV[2 * k - 4]
  if call('ZSCORE', KEYS[1], session) == ms then
    -- ZREM comes last, so that usage_sessions returns the session again if this call fails.
    call('DEL', KEYS[k])
    call('HDEL', KEYS[2], session)
    call('ZREM', KEYS[1], session)
    forgotten = forgotten + 1
  end
end
return { forgotten }
