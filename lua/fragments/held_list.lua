-- held_list: applies a holder's list of its leases, or a part of it, to the table of one pool.
--
-- PROVIDES  after_addresses            index of the first ARGV after those below
--           listed_at(at)              returns address and unread tokens of the entry ARGV[at]; '' if its index is 0
--           restore(lease, endpoint, unread)       adds a lease that the table lacks, unless a bound forbids it
--           correct(lease, value, endpoint, unread)   moves a lease that the table has with this value to the endpoint,
--                                      and lowers its unread tokens; does nothing if the endpoint is ''
--           repairs                    numbers of leases: restored, moved, refused
--           write_held()               writes the leases and counts, and keeps the holder alive
-- KEYS      1..3     see order
--           4  zset  holder -> deadline, ms since the Unix epoch
--           5  hash  the holder's leases; see leases
-- ARGV      1  holder TTL, ms
--           2  expiry of the pool's keys, ms
--           3  "1" if only Evenkeel writes this table, "0" if Higress writes KEYS[1] too
--           4  holder id
--           5  maximum number of leases to restore
--           6  E, number of addresses that the list refers to
--           then  E addresses, each with the count up to which leases on it are restored, or -1 for any count
--           An entry of a list is "<index of its address>" or "<index>;<unread tokens>"; the index is from 1, and 0 if
--           the holder does not know the endpoint yet.

local restores_max, addresses = tonumber(ARGV[5]), tonumber(ARGV[6])
local after_addresses = 7 + 2 * addresses
local stamp = string.format('%013.0f', now)
local repairs, set = { restored = 0, moved = 0, refused = 0 }, {}
-- By endpoint: the count up to which leases are restored, and the count before this call.
local count_max, count_before = {}, {}
for at = 7, after_addresses - 1, 2 do count_max[ARGV[at]] = tonumber(ARGV[at + 1]) end

local function listed_at(at)
  local i, unread = tonumber(ARGV[at]), 0
  if not i then
    local semicolon = find(ARGV[at], ';', 1, true)
    i, unread = tonumber(sub(ARGV[at], 1, semicolon - 1)), tonumber(sub(ARGV[at], semicolon + 1))
  end
  return i > 0 and ARGV[5 + 2 * i] or '', unread
end

local function is_full(endpoint)
  local most = count_max[endpoint]
  if most < 0 then return false end
  local before = count_before[endpoint] or tonumber(call('HGET', KEYS[1], endpoint) or 0) or 0
  count_before[endpoint] = before
  return before + (delta[endpoint] or 0) >= most
end

local function restore(lease, endpoint, unread)
  if repairs.restored >= restores_max or is_full(endpoint) then
    repairs.refused = repairs.refused + 1
  else
    set[#set + 1], set[#set + 2] = lease, lease_value(stamp, unread, endpoint)
    change(endpoint, 1, unread)
    repairs.restored = repairs.restored + 1
  end
end

local function correct(lease, value, endpoint, unread)
  -- A holder that does not know the endpoint knows nothing of the prompt either.
  if endpoint == '' then return end
  local unread_before, before = lease_of(value)
  unread = min(unread, unread_before)
  if endpoint == before and unread == unread_before then return end
  set[#set + 1], set[#set + 2] = lease, lease_value(sub(value, 1, 13), unread, endpoint)
  change(before, -1, -unread_before)
  change(endpoint, 1, unread)
  if endpoint ~= before then repairs.moved = repairs.moved + 1 end
end

local function write_held()
  if #set > 0 then set[#set + 1], set[#set + 2] = '', FILLER end
  -- unpack takes at most a few thousand values.
  for from = 1, #set, 1000 do
    call('HSET', KEYS[5], unpack(set, from, min(from + 999, #set)))
  end
  add_keys(ARGV[2])
  write_counts()
  call('ZADD', KEYS[4], now + tonumber(ARGV[1]), ARGV[4])
  if ARGV[3] == '1' then call('PEXPIRE', KEYS[1], ARGV[2]) end
  for k = 2, 5 do call('PEXPIRE', KEYS[k], ARGV[2]) end
end
