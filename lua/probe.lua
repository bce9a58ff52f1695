-- probe: finds out whether scripts can write here.
--
-- FRAGMENTS basics
-- KEYS  1       string  a key of its own
-- ARGV          none
-- RETURNS       { now in ms }
-- ERRORS        whatever refuses a write: READONLY, OOM, MISCONF, NOPERM ...
-- COST          O(1)
-- LAYOUT        ek2; see docs/redis-layout.md

call('SET', KEYS[1], '1', 'PX', 1000)
return { now }
