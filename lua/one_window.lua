-- one_window: does the work of `windows` for one reservation of one counter, which is the usual call of the rate limit
-- service while few requests are in flight. Redis runs the whole script at each call, so this one defines as little as
-- possible.
--
-- FRAGMENTS basics given_time edges expiry
-- KEYS      1       string  counters of one key; see codec
-- ARGV      1       current time, ms; '' for Redis's clock
--           2       packed doubles: 1 to peek else 0, cost, 1 in shadow mode else 0, amount, windows; see edges
--           3       the text of a string with only this counter; see codec
-- RETURNS   as `windows`
-- ERRORS    Redis's own if the key has another type
-- COST      O(1)
-- LAYOUT    ek2; see docs/redis-layout.md

local pack, unpack_struct, sub, text = struct.pack, struct.unpack, string.sub, ARGV[3]
local peek, cost, shadow, amount, length, edge, after, last = unpack_struct('<dddddddd', ARGV[2])
local start, stop = window_of(length, edge, after, last)

local value = call('GET', KEYS[1])
local until_ms, first, used, reserved, _ = 0, start, 0, 0, nil
if value then
  -- The length of the text takes 2 bytes, and the five doubles 40.
  if #value ~= #text + 42 or sub(value, 3, #text + 2) ~= text then return '' end
  until_ms, _, first, used, reserved = unpack_struct('<ddddd', value, #text + 3)
  -- If the clock was set back a little, the counter may belong to the next window. Keep it.
  if first ~= start and first ~= stop then first, used, reserved = start, 0, 0 end
end

local after_it = used + cost
if after_it > amount and shadow == 0 then
  local reset = max(0, stop - now)
  local retry, final = cost <= amount and reset or 0, after_it - reserved > amount and reset or 0
  return pack('<dddddddd', now, 0, 1, retry, final, used, reserved, first)
end
if peek == 0 then
  used = after_it
  if stop > until_ms then
    until_ms = expiry_of(stop)
    value = pack('<Hc0ddddd', #text, text, until_ms, 0, first, used, reserved)
    call('SET', KEYS[1], value, 'PX', string.format('%.0f', until_ms - now))
  else
    call('SET', KEYS[1], pack('<Hc0ddddd', #text, text, until_ms, 0, first, used, reserved), 'KEEPTTL')
  end
end
return pack('<ddddd', now, 1, used, reserved, first)
