-- expiry: when a string of counters expires.
--
-- PROVIDES  expiry_of(until_ms)   returns the time to store as UNTIL, for counters that matter until then, ms

-- The expiry is set ahead by up to this much: to renew it costs as much as half a request.
local AHEAD_MS = 60000
-- No counter is kept longer than this, however long a bucket would take to fill.
local KEPT_MS = 400 * 86400000

local function expiry_of(until_ms)
  return floor(min(until_ms + max(1000, min(until_ms - now, AHEAD_MS)), now + KEPT_MS))
end
