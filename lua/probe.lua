-- probe: checks whether scripts can write to this server.
--
-- FRAGMENTS basics
-- KEYS  1       string  a key that only this script writes
-- ARGV          none
-- RETURNS       { now in ms }
-- ERRORS        any error that Redis returns for a write: READONLY, OOM, MISCONF, NOPERM ...
-- COST          O(1)
-- LAYOUT        ek2; see docs/redis-layout.md

call('SET', KEYS[1], '1', 'PX', 1000)
return { now }
