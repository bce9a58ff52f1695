-- order: adds a roster to the order of a pool, for commit_ordered.
--
-- FRAGMENTS basics filler order rosters
-- KEYS  1..3    see the fragment
-- ARGV  1       expiry of the pool's keys, ms
--       2       a roster that no call of commit_ordered has used for this time may be replaced, ms
--       3       the roster, MessagePack: { digest, by_work, classes, addresses }; at most 64 classes, see the fragment;
--               the addresses in the order of their classes
-- RETURNS       { now in ms, 1 if the roster is in the order, or 0 if others are in use }
-- ERRORS        none of its own
-- COST          O(addresses * log), about 2 µs for each
-- LAYOUT        ek2; see docs/redis-layout.md

local idle_ms, new = tonumber(ARGV[2]), cmsgpack.unpack(ARGV[3])
local digest, by_work, classes, addresses = new[1], new[2], new[3], new[4]

local rosters, is_used, place = read_rosters(), {}, nil
local kept_rosters = {}
for r = 1, #rosters do
  local roster = rosters[r]
  if roster[1] == digest then return { now, 1 } end
  -- The clock may have been set back.
  if now - roster[3] < idle_ms and roster[3] <= now then
    is_used[roster[5]], kept_rosters[#kept_rosters + 1] = true, roster
  end
end
for p = ROSTERS_MAX - 1, 0, -1 do
  if not is_used[p] then place = p end
end
if not place then return { now, 0 } end

for p = 0, ROSTERS_MAX - 1 do
  if not is_used[p] then
    call('ZREMRANGEBYSCORE', KEYS[3], offset_of(p, 1), string.format('(%.0f', offset_of(p + 1, 1)))
  end
end
local count, unread = {}, {}
complete(KEYS[1], count, addresses)
if by_work then complete(KEYS[2], unread, addresses) end
local roster = { digest, by_work, now, classes, place }
local scored, e = {}, 0
for class = 1, #classes do
  local offset = offset_of(place, class)
  for _ = 1, classes[class][3] do
    e = e + 1
    local address = addresses[e]
    local score = score_of(roster, offset, count[address], unread[address])
    scored[2 * e - 1], scored[2 * e] = text_of(score), tostring(place) .. address
  end
end
for from = 1, #scored, 1000 do call('ZADD', KEYS[3], unpack(scored, from, min(from + 999, #scored))) end
kept_rosters[#kept_rosters + 1] = roster
table.sort(kept_rosters, function(a, b) return a[5] < b[5] end)
write_rosters(kept_rosters)
call('PEXPIRE', KEYS[3], ARGV[1])
return { now, 1 }
