-- report: replaces one sidecar's reports.
--
-- FRAGMENTS basics
-- KEYS  n  hash    sidecar -> time in ms, a newline, report; one for each kind and each page of counts
-- ARGV  1  sidecar
--       2n+1  expiry of the n-th key, in ms
--       2n    report for the n-th key
-- RETURNS { 1 }
-- ERRORS  none of its own
-- COST    O(keys)
-- LAYOUT  ek2; see docs/redis-layout.md

local sidecar = ARGV[1]
local stamp = string.format('%.0f', now) .. '\n'
for i, key in ipairs(KEYS) do
  call('HSET', key, sidecar, stamp .. ARGV[2 * i])
  call('PEXPIRE', key, ARGV[2 * i + 1])
end
return { 1 }
