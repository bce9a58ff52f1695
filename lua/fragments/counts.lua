-- counts: changes of a pool's loads, which are written together at the end.
--
-- PROVIDES  change(endpoint, requests, tokens)   changes the load of an endpoint
--           delta                                endpoint -> the change of its requests in flight so far
--           write_counts()          also brings the order up to date
-- AFTER     order, moves
-- KEYS      1  hash  endpoint -> requests in flight
--           2  hash  endpoint -> unread tokens
--           3  zset  see order

local delta, delta_unread = {}, {}

local function change(endpoint, requests, tokens)
  delta[endpoint] = (delta[endpoint] or 0) + requests
  if tokens ~= 0 then delta_unread[endpoint] = (delta_unread[endpoint] or 0) + tokens end
end

local function write_sum(key, endpoint, by)
  -- Another writer of a Higress table may have left a count below 0.
  local sum = max(tonumber(call('HGET', key, endpoint) or 0) or 0, 0) + by
  if sum > 0 then
    call('HSET', key, endpoint, string.format('%.0f', sum))
  else
    call('HDEL', key, endpoint)
  end
  return max(sum, 0)
end

local function write_counts()
  local changed, count, unread = {}, {}, {}
  for endpoint, by in pairs(delta) do
    changed[#changed + 1], count[endpoint] = endpoint, write_sum(KEYS[1], endpoint, by)
  end
  for endpoint, by in pairs(delta_unread) do unread[endpoint] = write_sum(KEYS[2], endpoint, by) end
  if #changed > 0 then move(read_rosters(), changed, count, unread) end
end
