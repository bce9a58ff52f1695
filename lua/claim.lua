-- claim: reads the record of a holder. If the record has the caller's secret, renews the record and raises its epoch.
-- If there is no record, creates it.
--
-- FRAGMENTS basics
-- KEYS  1       hash    secret -> 16 bytes, epoch -> the epoch of the holder's newest stream
-- ARGV  1       the caller's secret, 16 bytes
--       2       the epoch of the caller's stream, 0 without a stream, or '' for a new stream
--       3       expiry of the record, ms
-- RETURNS       { now in ms, the record's secret, the record's epoch }. If the secret is another, the script
--               changes nothing
-- ERRORS        none of its own
-- COST          O(1)
-- LAYOUT        ek2; see docs/redis-layout.md

local record = call('HMGET', KEYS[1], 'secret', 'epoch')
local secret, epoch = record[1], tonumber(record[2]) or 0
-- Lua compares texts by their address, so the time does not depend on the bytes. The sidecar compares again.
if secret and secret ~= ARGV[1] then return { now, secret, epoch } end

-- The epoch is a time, not a count, because a store that has lost its data must not repeat an earlier epoch.
local least = tonumber(ARGV[2]) or max(epoch + 1, time[1] * 1000000 + time[2])
if not secret or least > epoch then
  epoch = max(epoch, least)
  call('HSET', KEYS[1], 'secret', ARGV[1], 'epoch', string.format('%.0f', epoch))
end
call('PEXPIRE', KEYS[1], ARGV[3])
return { now, ARGV[1], epoch }
