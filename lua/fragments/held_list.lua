-- held_list: applies a holder's list of its leases, or a part of it, to the table of one pool.
--
-- PROVIDES  after_addresses            index of the first ARGV after those below
--           address_at(at)             returns the address whose index from 1 is ARGV[at]; '' if that is 0
--           restore(lease, endpoint)   adds a lease that the table lacks, unless a bound forbids it
--           move(lease, value, endpoint)   moves a lease that the table has with this value, if to another endpoint
--           repairs                    numbers of leases: restored, moved, refused
--           write_held()               writes the leases and counts, and keeps the holder alive
-- KEYS      1  hash  endpoint -> requests in flight
--           2  zset  holder -> deadline, ms since the Unix epoch
--           3  hash  the holder's leases: lease -> "<13 digits of ms>:<endpoint>"
-- ARGV      1  holder TTL, ms
--           2  expiry of the pool's keys, ms
--           3  "1" if only Evenkeel writes this table, "0" if Higress writes KEYS[1] too
--           4  holder id
--           5  maximum number of leases to restore
--           6  E, number of addresses that the list refers to
--           then  E addresses, each with the count up to which leases on it are restored, or -1 for any count

local restores_max, addresses = tonumber(ARGV[5]), tonumber(ARGV[6])
local after_addresses = 7 + 2 * addresses
local stamp = string.format('%013.0f:', now)
local repairs, set = { restored = 0, moved = 0, refused = 0 }, {}
-- By endpoint: the count up to which leases are restored, and the count before this call.
local count_max, count_before = {}, {}
for at = 7, after_addresses - 1, 2 do count_max[ARGV[at]] = tonumber(ARGV[at + 1]) end

local function address_at(at)
  local i = tonumber(ARGV[at])
  return i > 0 and ARGV[5 + 2 * i] or ''
end

local function is_full(endpoint)
  local most = count_max[endpoint]
  if most < 0 then return false end
  local before = count_before[endpoint] or tonumber(call('HGET', KEYS[1], endpoint) or 0) or 0
  count_before[endpoint] = before
  return before + (delta[endpoint] or 0) >= most
end

local function restore(lease, endpoint)
  if repairs.restored >= restores_max or is_full(endpoint) then
    repairs.refused = repairs.refused + 1
  else
    set[#set + 1], set[#set + 2] = lease, stamp .. endpoint
    change(endpoint, 1)
    repairs.restored = repairs.restored + 1
  end
end

local function move(lease, value, endpoint)
  local before = string.sub(value, 15)
  if before == endpoint then return end
  set[#set + 1], set[#set + 2] = lease, string.sub(value, 1, 14) .. endpoint
  change(before, -1)
  change(endpoint, 1)
  repairs.moved = repairs.moved + 1
end

local function write_held()
  if #set > 0 then set[#set + 1], set[#set + 2] = '', FILLER end
  -- unpack takes at most a few thousand values.
  for from = 1, #set, 1000 do
    call('HSET', KEYS[3], unpack(set, from, min(from + 999, #set)))
  end
  write_counts()
  call('ZADD', KEYS[2], now + tonumber(ARGV[1]), ARGV[4])
  call('PEXPIRE', KEYS[2], ARGV[2])
  call('PEXPIRE', KEYS[3], ARGV[2])
  if ARGV[3] == '1' then call('PEXPIRE', KEYS[1], ARGV[2]) end
end
