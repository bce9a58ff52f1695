-- counts: changes of a pool's counts, which are written together at the end.
--
-- PROVIDES  change(endpoint, by)   changes the count of an endpoint
--           delta                  endpoint -> its changes so far
--           write_counts()
-- KEYS      1  hash  endpoint -> requests in flight

local delta = {}

local function change(endpoint, by)
  delta[endpoint] = (delta[endpoint] or 0) + by
end

local function write_counts()
  for endpoint, by in pairs(delta) do
    -- Another writer of a Higress table may have left a count below 0.
    local count = max(tonumber(call('HGET', KEYS[1], endpoint) or 0) or 0, 0) + by
    if count > 0 then
      call('HSET', KEYS[1], endpoint, string.format('%.0f', count))
    else
      call('HDEL', KEYS[1], endpoint)
    end
  end
end
