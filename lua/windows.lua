-- windows: does the work of `count` for the most common batch: reservations without records, under fixed windows only,
-- with one counter per key. Redis runs the whole script at each call, so this one defines few functions and tables. A
-- batch of one costs half as much as in `count`. `one_window` is still cheaper for a single counter.
--
-- FRAGMENTS basics given_time edges expiry other_types
-- KEYS      string  counters of one key; see codec. No key twice
-- ARGV      1       current time, ms; '' for Redis's clock
--           2       limits, packed doubles, each { 1 in shadow mode else 0, amount, windows }; see edges
--           3       reservations, packed doubles, each
--                     1 to peek else 0, n, n times { number of the key, number of the limit, cost }
--           4..     for each limit, the text of a string with only its counter; see codec
-- RETURNS   packed doubles: now in ms; for each reservation
--             1, each counter { used, reserved, start }                                       admitted
--             0, each { 1 if over, retry ms, final ms }, each counter { used, reserved, start }   refused
--           or '', with nothing done, if a string has other counters. The sidecar then calls `count`
-- ERRORS    Redis's own if a key has another type; nothing is done
-- COST      O(counters)
-- LAYOUT    ek2; see docs/redis-layout.md

local pack, unpack_struct, rep, sub = struct.pack, struct.unpack, string.rep, string.sub
local LIMIT_NUMBERS = 6
local limits = { unpack_struct('<' .. rep('d', #ARGV[2] / 8), ARGV[2]) }
local asked = { unpack_struct('<' .. rep('d', #ARGV[3] / 8), ARGV[3]) }
local n_asked = #asked - 1 -- The last is the position behind the text.

-- Indexed by limit. Each table starts with one element, so that it need not grow for a batch with one limit.
local is_shadow, amounts, starts, stops = { false }, { 0 }, { 0 }, { 0 }
for l = 1, (#limits - 1) / LIMIT_NUMBERS do
  local from = LIMIT_NUMBERS * (l - 1) + 1
  is_shadow[l], amounts[l] = limits[from] == 1, limits[from + 1]
  starts[l], stops[l] = window_of(limits[from + 2], limits[from + 3], limits[from + 4], limits[from + 5])
end

-- Indexed by key: the counter as of now.
local stored = call('MGET', unpack(KEYS))
local limit_of, until_of, start_of, used_of, reserved_of = { false }, { 0 }, { 0 }, { 0 }, { 0 }
local is_changed = { false }

local p = 1
while p < n_asked do
  local first, last = p + 2, p + 3 * asked[p + 1] - 1
  for i = first, last, 3 do
    local k, l = asked[i], asked[i + 1]
    if not limit_of[k] then
      local value, text, _ = stored[k], ARGV[3 + l], nil
      local until_ms, start, used, reserved = 0, starts[l], 0, 0
      if value then
        -- The length of the text takes 2 bytes, and the five doubles 40.
        if #value ~= #text + 42 or sub(value, 3, #text + 2) ~= text then return '' end
        until_ms, _, start, used, reserved = unpack_struct('<ddddd', value, #text + 3)
        -- If the clock was set back a little, the counter may belong to the next window. Keep it.
        if start ~= starts[l] and start ~= stops[l] then start, used, reserved = starts[l], 0, 0 end
      else
        is_absent(KEYS[k])
      end
      limit_of[k], until_of[k], start_of[k], used_of[k], reserved_of[k] = l, until_ms, start, used, reserved
    end
  end
  p = last + 3
end

check_absent()

local reply, n_reply = { now, 0, 0, 0, 0 }, 1
p = 1
while p < n_asked do
  local first, last, admitted = p + 2, p + 3 * asked[p + 1] - 1, true
  for i = first, last, 3 do
    local k, l = asked[i], asked[i + 1]
    if used_of[k] + asked[i + 2] > amounts[l] and not is_shadow[l] then admitted = false end
  end
  n_reply = n_reply + 1
  reply[n_reply] = admitted and 1 or 0
  if not admitted then
    for i = first, last, 3 do
      local k, l, cost = asked[i], asked[i + 1], asked[i + 2]
      local used, amount, reset = used_of[k] + cost, amounts[l], max(0, stops[l] - now)
      reply[n_reply + 1] = used > amount and not is_shadow[l] and 1 or 0
      reply[n_reply + 2] = cost <= amount and reset or 0
      reply[n_reply + 3] = used - reserved_of[k] > amount and reset or 0
      n_reply = n_reply + 3
    end
  end
  local takes = admitted and asked[p] == 0
  for i = first, last, 3 do
    local k = asked[i]
    if takes then used_of[k], is_changed[k] = used_of[k] + asked[i + 2], true end
    reply[n_reply + 1], reply[n_reply + 2], reply[n_reply + 3] = used_of[k], reserved_of[k], start_of[k]
    n_reply = n_reply + 3
  end
  p = last + 3
end

-- All reads are done; writes follow.
for k = 1, #KEYS do
  if is_changed[k] then
    local l, until_ms = limit_of[k], until_of[k]
    local text, is_later = ARGV[3 + l], stops[l] > until_ms
    if is_later then until_ms = expiry_of(stops[l]) end
    local value = pack('<Hc0ddddd', #text, text, until_ms, 0, start_of[k], used_of[k], reserved_of[k])
    if is_later then
      call('SET', KEYS[k], value, 'PX', string.format('%.0f', until_ms - now))
    else
      call('SET', KEYS[k], value, 'KEEPTTL')
    end
  end
end
return pack('<' .. rep('d', n_reply), unpack(reply, 1, n_reply))
