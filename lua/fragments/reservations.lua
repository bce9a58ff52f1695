-- reservations: records that make reserving and settling idempotent. Reserving writes a record, settling deletes it.
--
-- PROVIDES  recorded       reservation -> its record, or false
--           day_of         reservation -> number of the hash that has its record
--           epochs         number of the hash -> its epoch
--           id_of(r)       returns the id of reservation r
--           record(r, value), forget(r)
--           write_reservations()
--           SETTLED        the record of a reservation that was settled after Redis had lost its record
-- KEYS      last  hash     records of one day: id -> packed doubles, for each counter the window and the amount
--                          taken; or SETTLED. The field '' has the hash's epoch, which is its creation time in ms,
--                          and filler
-- ARGV      2     packed doubles, after those of counters: number of ARGV before the ids; for each hash the number
--                 of ids. Reservations are numbered across all hashes, from 1
--           ids   "HOLDER/LEASE"; no id twice

local SETTLED = '0'
-- Longer than any request lasts.
local RECORDS_MS = 2 * 86400000

local ids_from, n_days = head[3], #head - 3
local first_day = #KEYS - n_days
local recorded, day_of, epochs, is_new, to_set, to_delete = {}, {}, {}, {}, {}, {}

do
  local r = 0
  for day = 1, n_days do
    local n = head[3 + day]
    local values = call('HMGET', KEYS[first_day + day], '', unpack(ARGV, ids_from + r + 1, ids_from + r + n))
    local epoch = values[1]
    epochs[day], is_new[day] = epoch and tonumber(string.match(epoch, '^%d+')) or now, not epoch
    for i = 1, n do recorded[r + i], day_of[r + i] = values[i + 1], day end
    r, to_set[day], to_delete[day] = r + n, {}, {}
  end
end

local function id_of(r) return ARGV[ids_from + r] end

local function record(r, value)
  local set = to_set[day_of[r]]
  local n = #set
  set[n + 1], set[n + 2], recorded[r] = id_of(r), value, value
end

local function forget(r)
  local ids = to_delete[day_of[r]]
  ids[#ids + 1], recorded[r] = id_of(r), false
end

local function write_reservations()
  for day = 1, n_days do
    local key, set, ids = KEYS[first_day + day], to_set[day], to_delete[day]
    if #ids > 0 then call('HDEL', key, unpack(ids)) end
    if #set > 0 then
      if is_new[day] then set[#set + 1], set[#set + 2] = '', string.format('%.0f', now) .. FILLER end
      call('HSET', key, unpack(set))
      if is_new[day] then call('PEXPIRE', key, RECORDS_MS) end
    end
  end
end
