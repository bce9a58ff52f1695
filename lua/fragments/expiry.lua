-- expiry: when a string of counters expires.
--
-- PROVIDES  expiry_of(until_ms)   returns the time to store as UNTIL, for counters that matter until then, ms

-- The expiry is set up to this much later than necessary, because each renewal costs as much as half a request.
local AHEAD_MS = 60000
-- Maximum time that a counter is stored, even if a bucket takes longer to refill.
local KEPT_MS = 400 * 86400000

local function expiry_of(until_ms)
  -- The window of a sidecar whose clock is late may have ended.
  until_ms = max(until_ms, now)
  return floor(min(until_ms + max(1000, min(until_ms - now, AHEAD_MS)), now + KEPT_MS))
end
