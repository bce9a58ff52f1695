-- order: the endpoints of large rosters in the order of their loads, so that a choice need not read all of them.
--
-- PROVIDES  read_rosters()     returns the rosters in the order, by place: { digest, by_work, used_ms, classes, place }
--                              by_work: whether they are ordered by work; used_ms: when commit_ordered last used it,
--                              about; classes: { weight, cap, number of endpoints } ...; cap 0: unlimited
--           offset_of(place, class)     returns the score of a member without load; class from 1
--           score_of(roster, before, count, unread)   returns the score of a member that had the score `before`
--           complete(key, numbers, endpoints)         reads the numbers of the endpoints that are missing in a table
--           text_of(number)             returns a whole number as a text
--           ROSTERS_MAX, CLASSES, FULL, LOAD_MAX, REQUEST_TOKENS
-- KEYS      1  hash  endpoint -> requests in flight
--           2  hash  endpoint -> unread tokens
--           3  zset  see LAYOUT
-- LAYOUT    ek2; see docs/redis-layout.md. Members of KEYS[3] are
--             <place, 1 digit><endpoint>         -> ((place * CLASSES + class - 1) * 2 + full) * FULL + load
--             <filler><MessagePack of rosters>   -> +inf
--           full: 1 if the endpoint is at its cap, else 0

local ROSTERS_MAX, CLASSES, FULL = 2, 64, 2 ^ 44
-- More than a million of the longest prompts. A greater load counts as this, so that it does not change the class.
local LOAD_MAX = FULL - 1
-- Of server/domain/src/choice.rs.
local REQUEST_TOKENS = 200

local kept -- the member with the rosters

local function read_rosters()
  kept = call('ZRANGE', KEYS[3], -1, -1)[1]
  if not kept or #kept <= #FILLER then return {} end
  return cmsgpack.unpack(string.sub(kept, #FILLER + 1))
end

local function offset_of(place, class) return (place * CLASSES + class - 1) * 2 * FULL end

local function load_in(by_work, count, unread)
  local load = by_work and unread + REQUEST_TOKENS * count or count
  return load < LOAD_MAX and load or LOAD_MAX
end

-- Formatting a number is slow, and many numbers are equal, so each number is formatted once.
local texts = {}
local function text_of(number)
  local text = texts[number]
  if not text then
    text = string.format('%.0f', number)
    texts[number] = text
  end
  return text
end

-- Reads the numbers of the endpoints that are missing in a table.
local function complete(key, numbers, endpoints)
  local missing = endpoints
  if next(numbers) then
    missing = {}
    for e = 1, #endpoints do
      if not numbers[endpoints[e]] then missing[#missing + 1] = endpoints[e] end
    end
  end
  -- unpack takes at most a few thousand values.
  for from = 1, #missing, 1000 do
    local to = min(from + 999, #missing)
    local found = call('HMGET', key, unpack(missing, from, to))
    for m = from, to do
      local number = tonumber(found[m - from + 1] or 0) or 0
      numbers[missing[m]] = number > 0 and number or 0
    end
  end
end

-- Returns the score of an endpoint whose score was `before`.
local function score_of(roster, before, count, unread)
  local place = roster[5]
  local class = floor(before / (2 * FULL)) - place * CLASSES + 1
  local cap = roster[4][class][2]
  local score = offset_of(place, class) + load_in(roster[2], count, unread)
  return cap > 0 and count >= cap and score + FULL or score
end
