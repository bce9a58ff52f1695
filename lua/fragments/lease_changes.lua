-- lease_changes: writes what a batch changes of the leases of its holders.
--
-- PROVIDES  write_leases(holders, settled, changed, ttl_ms, expiry_ms)
--             holders: see the batch of commit. Those with admissions get a new deadline
--             settled, changed: for each holder, the leases to delete, and the fields and values to write, which begin
--             with the filler
-- KEYS      4     zset  holder -> deadline, ms since the Unix epoch
--           5..   hash  leases of one holder, see leases; one key per holder
-- AFTER     basics

-- The script sets the expiry of new keys. KeepAlives and recounts renew it.
local function write_leases(holders, settled, changed, ttl_ms, expiry_ms)
  local deadlines, n, deadline = {}, 0, string.format('%.0f', now + ttl_ms)
  for h = 1, #holders do
    local set, del = changed[h], settled[h]
    if #del > 0 then call('HDEL', KEYS[h + 4], unpack(del)) end
    if #set > 2 and call('HSET', KEYS[h + 4], unpack(set)) == #set / 2 then
      call('PEXPIRE', KEYS[h + 4], expiry_ms)
    end
    if #holders[h][2] > holders[h][3] + holders[h][4] then
      deadlines[n + 1], deadlines[n + 2], n = deadline, holders[h][1], n + 2
    end
  end
  if n > 0 and call('ZADD', KEYS[4], unpack(deadlines)) > 0 then call('PEXPIRE', KEYS[4], expiry_ms) end
end
