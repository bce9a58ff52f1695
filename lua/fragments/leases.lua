-- leases: the value of a lease in its holder's hash.
--
-- PROVIDES  lease_of(value)                    returns the unread tokens and the endpoint of a lease
--           lease_value(ms, unread, endpoint)  returns the value of a lease; ms has 13 digits
-- LAYOUT    ek2; see docs/redis-layout.md. A lease that its endpoint has read, or whose size nobody counts:
--             <13 digits of ms>:<endpoint>
--           A lease with unread tokens:
--             <13 digits of ms>;<tokens>:<endpoint>

local byte, find, sub = string.byte, string.find, string.sub
local COLON = 58

local function lease_of(value)
  if byte(value, 14) == COLON then return 0, sub(value, 15) end
  local at = find(value, ':', 15, true)
  return tonumber(sub(value, 15, at - 1)), sub(value, at + 1)
end

local function lease_value(ms, unread, endpoint)
  if unread == 0 then return ms .. ':' .. endpoint end
  return ms .. ';' .. string.format('%.0f', unread) .. ':' .. endpoint
end
