-- pool_keys: the keys of a pool that may have no content.
--
-- PROVIDES  add_keys(expiry_ms)         creates KEYS[2] and KEYS[3] if they are missing
-- KEYS      2, 3  see order

-- While a slot of Redis Cluster moves, a call fails if one of its keys is missing. So a pool without unread tokens has
-- their hash, and a pool without large rosters has an order.
local function add_keys(expiry_ms)
  if call('EXISTS', KEYS[2]) == 0 then
    call('HSET', KEYS[2], '', FILLER)
    call('PEXPIRE', KEYS[2], expiry_ms)
  end
  if call('EXISTS', KEYS[3]) == 0 then
    call('ZADD', KEYS[3], '+inf', FILLER)
    call('PEXPIRE', KEYS[3], expiry_ms)
  end
end
