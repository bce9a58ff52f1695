-- running: in-flight requests under concurrency limits.
--
-- PROVIDES  running(k)        returns the number of in-flight requests in zset k
--           run(k, rule, id)  adds a request to zset k, and counts it once
--           write_running()
-- KEYS      zset  after the strings: in-flight requests under one limit: id -> deadline, ms

local running_by_key, started, ttl_by_key = {}, {}, {}

local function running(k)
  local count = running_by_key[k]
  if not count then
    call('ZREMRANGEBYSCORE', KEYS[n_keys + k], '-inf', now)
    count = call('ZCARD', KEYS[n_keys + k])
    running_by_key[k] = count
  end
  return count
end

local function run(k, rule, id)
  if not call('ZSCORE', KEYS[n_keys + k], id) then running_by_key[k] = running(k) + 1 end
  local set = started[k] or {}
  set[#set + 1], set[#set + 2] = now + rule.ttl, id
  started[k], ttl_by_key[k] = set, max(ttl_by_key[k] or 0, rule.ttl)
end

local function write_running()
  for k, set in pairs(started) do
    call('ZADD', KEYS[n_keys + k], unpack(set))
    if call('PTTL', KEYS[n_keys + k]) < ttl_by_key[k] then call('PEXPIRE', KEYS[n_keys + k], ttl_by_key[k]) end
  end
end
