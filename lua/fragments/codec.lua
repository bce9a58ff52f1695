-- codec: numbers as packed doubles, and all counters of one key as one string.
--
-- PROVIDES  numbers_of(packed)   returns the numbers in a text
--           packed_of(numbers)   returns a text of the numbers
--           decode(value)        returns the counters in a string, or none, as a flat list c
--           encode(c)            returns the counters as a string
--           with_counter(c, name, rule), without_counter(c, name, quota)
--                                adds or removes a counter
--           UNTIL, LASTING       positions
-- LAYOUT    ek2; see docs/redis-layout.md. All numbers are little-endian. The counters of one key are
--             u16 n, n bytes of text, doubles
--           The text names each counter: u8 kind, u8 number of doubles, u16 n, n bytes of name. The doubles are
--             UNTIL    time when the key expires, ms; if it has no expiry, the time when its limits no longer matter
--             LASTING  1 while a balance or an amount is on record, so that the key has no expiry; else 0
--             the doubles of each counter, in the order of the text; the algorithm's file names them
--           A script holds a string as one flat list c of its layout, the text and the doubles. c[at + 1] is the
--           first number of the counter at `at`. After the last counter, the list may have one more number, which has
--           no meaning. A layout has the fields
--             text            the text
--             last            position of the last double
--             size            length of the string
--             format          of the string, for `struct`
--             limits, quotas  name -> at
--             kind_at         at -> kind
--             places          for other fragments

local UNTIL, LASTING, HEAD = 3, 4, 4
-- Maximum number of numbers that one call packs or unpacks, because each takes a slot on Lua's stack of 8000.
local CHUNK = 4000

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
  local limits, quotas, kind_at, last, from = {}, {}, {}, HEAD, 1
  while from <= #text do
    local kind, doubles, name
    kind, doubles, name, from = unpack_struct('<BBHc0', text, from)
    if kind < FIRST_QUOTA then limits[name] = last else quotas[name] = last end
    kind_at[last], last = kind, last + doubles
  end
  local doubles = last - UNTIL + 1
  layout = { text = text, last = last, size = 2 + #text + 8 * doubles, format = '<Hc' .. #text .. rep('d', doubles),
    limits = limits, quotas = quotas, kind_at = kind_at, places = {} }
  layouts[text] = layout
  return layout
end

-- The layout of the last string. The next string usually has the same, and then one call reads all of it.
local usual

local function decode(value)
  if not value then return { layout_of(''), '', 0, 0 } end
  local layout = usual
  if layout and #value == layout.size then
    local c = { unpack_struct(layout.format, value) }
    if c[2] == layout.text then
      c[1] = layout
      return c
    end
  end
  local text, from = unpack_struct('<Hc0', value)
  layout = layout_of(text)
  local c = { layout, text, unpack_struct('<' .. rep('d', layout.last - UNTIL + 1), value, from) }
  -- The format of a string without counters serves only to pack it.
  if text ~= '' then usual = layout end
  return c
end

local function encode(c)
  local layout = c[1]
  return pack(layout.format, #layout.text, unpack(c, 2, layout.last))
end

local function with_counter(c, name, rule)
  local last = c[1].last
  for i = last + 1, last + rule.doubles do c[i] = 0 end
  if rule.record then c[last + rule.record] = -1 end
  c[2] = c[2] .. pack('<BBHc0', rule.kind, rule.doubles, #name, name)
  c[1] = layout_of(c[2])
end

local function without_counter(c, name, quota)
  local last, from, text = HEAD, 1, c[2]
  while from <= #text do
    local kind, doubles, other, to = unpack_struct('<BBHc0', text, from)
    if other == name and (kind >= FIRST_QUOTA) == quota then
      for _ = 1, doubles do table.remove(c, last + 1) end
      c[2] = sub(text, 1, from - 1) .. sub(text, to)
      c[1] = layout_of(c[2])
      return
    end
    last, from = last + doubles, to
  end
end
