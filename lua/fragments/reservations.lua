-- reservations: records that make reserving and settling idempotent. Reserving writes a record, settling deletes it.
--
-- PROVIDES  record_of(r)   returns the record of reservation r, or false
--           day_of(r)      returns the number of the hash that has its record
--           epochs         number of the hash -> its epoch
--           id_of(r)       returns the id of reservation r
--           record(r, value), forget(r)
--           mark_of(n)     returns the record that marks a reservation as settled by the settler with the number n
--           settler_of(v)  returns the number in a mark, or nil if v is not a mark
--           numbers_in(v, n)   returns the numbers in the record of a reservation in n counters; nil if v is another
--                          record
--           is_shared(v)   returns whether the reservation was made more than once
--           shared(v)      returns the record of such a reservation
--           write_reservations()
-- KEYS      last  hash     records of one day: id -> packed doubles, for each counter the window and the amount
--                          taken, and one double more if it was made more than once; or a mark, one double. The
--                          field '' has the hash's epoch, which is its creation time in ms, and filler
-- ARGV      ids   "HOLDER/LEASE"; no id twice. Reservations are numbered across all hashes, from 1

-- The record of a reservation has at least twice as many bytes.
local MARK_BYTES = 8
-- Longer than any request lasts.
local RECORDS_MS = 2 * 86400000

local first_day = #KEYS - n_days
-- `values` has an element before those of the reservations. last_of: number of the hash -> its last reservation.
local values, last_of, epochs, is_new = {}, {}, {}, {}
-- By number of the hash: what to write, and the length of these lists.
local to_set, n_set, to_delete, n_deleted = {}, {}, {}, {}

do
  local r = 0
  for day = 1, n_days do
    local to = r + numbers[HEAD_NUMBERS + day]
    local found = call('HMGET', KEYS[first_day + day], '', unpack(ARGV, ids_from + r + 1, ids_from + to))
    local epoch = found[1]
    epochs[day], is_new[day] = epoch and tonumber(string.match(epoch, '^%d+')) or now, not epoch
    if day == 1 then
      values = found
    else
      for i = r + 1, to do values[1 + i] = found[1 + i - r] end
    end
    r, last_of[day], to_set[day], n_set[day], to_delete[day], n_deleted[day] = to, to, {}, 0, {}, 0
  end
end

local function record_of(r) return values[1 + r] end

local function day_of(r)
  local day = 1
  while r > last_of[day] do day = day + 1 end
  return day
end

local function mark_of(n) return pack('<d', n) end

local function settler_of(value) return #value == MARK_BYTES and struct.unpack('<d', value) or nil end

local function numbers_in(value, n)
  local extra = #value - 16 * n
  return n > 0 and (extra == 0 or extra == 8) and numbers_of(value) or nil
end

local function is_shared(value) return #value > MARK_BYTES and #value % 16 == 8 end

local function shared(value) return is_shared(value) and value or value .. pack('<d', 0) end

local function id_of(r) return ARGV[ids_from + r] end

local function record(r, value)
  local day = n_days == 1 and 1 or day_of(r)
  local set, n = to_set[day], n_set[day]
  set[n + 1], set[n + 2], values[1 + r], n_set[day] = ARGV[ids_from + r], value, value, n + 2
end

local function forget(r)
  local day = n_days == 1 and 1 or day_of(r)
  local n = n_deleted[day] + 1
  to_delete[day][n], values[1 + r], n_deleted[day] = ARGV[ids_from + r], false, n
end

local function write_reservations()
  for day = 1, n_days do
    local key, set, n = KEYS[first_day + day], to_set[day], n_set[day]
    if n_deleted[day] > 0 then call('HDEL', key, unpack(to_delete[day])) end
    if n > 0 then
      if is_new[day] then set[n + 1], set[n + 2] = '', string.format('%.0f', now) .. FILLER end
      call('HSET', key, unpack(set))
      if is_new[day] then call('PEXPIRE', key, RECORDS_MS) end
    end
  end
end
