-- codec: numbers as packed doubles, and all counters of one key as one string.
--
-- PROVIDES  numbers_of(packed)   returns the numbers in a text
--           packed_of(numbers)   returns a text of the numbers
--           decode(value)        returns the counters in a string, or none, as a flat list; and their layout
--           encode(c, layout)    returns the counters as a string
--           with_counter(layout, c, name, algorithm), without_counter(layout, c, name, quota)
--                                adds or removes a counter; returns the layout after that
--           UNTIL, LASTING       positions
-- LAYOUT    ek2; see docs/redis-layout.md. All numbers are little-endian. The counters of one key are
--             u16 n, n bytes of text, doubles
--           The text names each counter: u8 kind, u8 number of doubles, u16 n, n bytes of name. The doubles are
--             UNTIL    time when the key expires, ms; if it has no expiry, the time when its limits no longer matter
--             LASTING  1 while a balance or an amount is on record, so that the key has no expiry; else 0
--             the doubles of each counter, in the order of the text; the algorithm's file names them
--           A script holds the doubles as one flat list c, where c[at + START] is a number of the counter at `at`.

local UNTIL, LASTING, HEAD_DOUBLES = 1, 2, 2
-- Maximum number of numbers that one call packs or unpacks, because each takes a slot on Lua's stack.
local CHUNK = 2000

local pack, unpack_struct, rep, sub = struct.pack, struct.unpack, string.rep, string.sub

local function numbers_of(packed)
  local n, list = #packed / 8, nil
  for from = 0, max(0, n - 1), CHUNK do
    local count = min(CHUNK, n - from)
    local part = { unpack_struct('<' .. rep('d', count), packed, 8 * from + 1) }
    part[count + 1] = nil -- Drops the position after the last number.
    if list then
      for i = 1, count do list[from + i] = part[i] end
    else
      list = part
    end
  end
  return list
end

local function packed_of(numbers)
  local n = #numbers
  if n <= CHUNK then return pack('<' .. rep('d', n), unpack(numbers)) end
  local parts = {}
  for from = 1, n, CHUNK do
    local to = min(n, from + CHUNK - 1)
    parts[#parts + 1] = pack('<' .. rep('d', to - from + 1), unpack(numbers, from, to))
  end
  return table.concat(parts)
end

-- The layout of each text. Cached, because most keys of a batch have the same text.
local layouts = {}

local function layout_of(text)
  local layout = layouts[text]
  if layout then return layout end
  local limits, quotas, kind_at = {}, {}, {}
  local doubles, from = HEAD_DOUBLES, 1
  while from <= #text do
    local kind, size, name
    kind, size, name, from = unpack_struct('<BBHc0', text, from)
    if kind < FIRST_QUOTA then limits[name] = doubles else quotas[name] = doubles end
    kind_at[doubles] = kind
    doubles = doubles + size
  end
  local format = rep('d', doubles)
  layout = { text = text, doubles = doubles, format = '<' .. format, whole_format = '<Hc0' .. format, limits = limits,
    quotas = quotas, kind_at = kind_at, places = {} }
  layouts[text] = layout
  return layout
end

local function decode(value)
  if not value then return { 0, 0 }, layout_of('') end
  local text, from = unpack_struct('<Hc0', value)
  local layout = layout_of(text)
  local c = { unpack_struct(layout.format, value, from) }
  c[layout.doubles + 1] = nil -- Drops the position after the last number.
  return c, layout
end

local function encode(c, layout) return pack(layout.whole_format, #layout.text, layout.text, unpack(c)) end

local function with_counter(layout, c, name, algorithm)
  local n = layout.doubles
  for i = n + 1, n + algorithm.doubles do c[i] = 0 end
  if algorithm.record then c[n + algorithm.record] = -1 end
  return layout_of(layout.text .. pack('<BBHc0', algorithm.kind, algorithm.doubles, #name, name))
end

local function without_counter(layout, c, name, quota)
  local before, from, text = HEAD_DOUBLES, 1, layout.text
  while from <= #text do
    local kind, size, other, to = unpack_struct('<BBHc0', text, from)
    if other == name and (kind >= FIRST_QUOTA) == quota then
      for _ = 1, size do table.remove(c, before + 1) end
      return layout_of(sub(text, 1, from - 1) .. sub(text, to))
    end
    before, from = before + size, to
  end
  return layout
end
