-- expiry: when a string of counters expires.
--
-- PROVIDES  expiry_of(until_ms)   returns the time to store as UNTIL, for counters that matter until then, ms

-- Sets the expiry up to this much later, as each renewal costs as much as half a request.
local AHEAD_MS = 60000
-- No counter is kept longer than this, even if a bucket takes longer to fill.
local KEPT_MS = 400 * 86400000

local function expiry_of(until_ms)
  return floor(min(until_ms + max(1000, min(until_ms - now, AHEAD_MS)), now + KEPT_MS))
end
