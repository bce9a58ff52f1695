-- corrections: compares the order with the loads.
--
-- PROVIDES  correct_order(corrected)   corrects the order, and adds the endpoints that had another place:
--                                      endpoint -> true.
--                                      Drops a roster that lacks endpoints. The next batch for it adds it again
-- KEYS      1..3  see order

local function correct_order(corrected)
  local rosters, kept_rosters = read_rosters(), {}
  for r = 1, #rosters do
    local roster = rosters[r]
    local by_work, classes, place, size = roster[2], roster[4], roster[5], 0
    for c = 1, #classes do size = size + classes[c][3] end
    local first, last = offset_of(place, 1), string.format('(%.0f', offset_of(place + 1, 1))
    local found = call('ZRANGE', KEYS[3], first, last, 'BYSCORE', 'WITHSCORES')
    if #found == 2 * size then
      local endpoints, count, unread, moved = {}, {}, {}, {}
      for at = 1, #found, 2 do endpoints[#endpoints + 1] = string.sub(found[at], 2) end
      complete(KEYS[1], count, endpoints)
      if by_work then complete(KEYS[2], unread, endpoints) end
      for e = 1, #endpoints do
        local endpoint = endpoints[e]
        local score = tonumber(found[2 * e])
        if score ~= score_of(roster, score, count[endpoint], unread[endpoint]) then
          moved[#moved + 1], corrected[endpoint] = endpoint, true
        end
      end
      move({ roster }, moved, count, unread)
      kept_rosters[#kept_rosters + 1] = roster
    else
      call('ZREMRANGEBYSCORE', KEYS[3], first, last)
    end
  end
  if #kept_rosters < #rosters then write_rosters(kept_rosters) end
end
