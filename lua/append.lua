-- append: adds entries to the head of a list, and trims the list to a maximum length.
--
-- KEYS  1  list    newest first
-- ARGV  1  maximum number of entries
--       2  expiry of the list, in ms
--       3- entries, newest last
-- RETURNS { number of entries }
-- ERRORS  none of its own
-- COST    O(entries added)
-- LAYOUT  ek2; see docs/redis-layout.md

for i = 3, #ARGV do redis.call('LPUSH', KEYS[1], ARGV[i]) end
redis.call('LTRIM', KEYS[1], 0, ARGV[1] - 1)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return { redis.call('LLEN', KEYS[1]) }
