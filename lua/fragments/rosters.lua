-- rosters: the list of the rosters in the order.
--
-- PROVIDES  write_rosters(rosters)      replaces what read_rosters returns
-- AFTER     order

local function write_rosters(rosters)
  local member = FILLER .. (#rosters > 0 and cmsgpack.pack(rosters) or '')
  if member == kept then return end
  if kept then call('ZREM', KEYS[3], kept) end
  call('ZADD', KEYS[3], '+inf', member)
  kept = member
end
