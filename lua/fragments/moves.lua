-- moves: brings the order up to date.
--
-- PROVIDES  move(rosters, endpoints, count, unread)    moves endpoints whose loads have changed.
--                     count, unread: endpoint -> the new number, or nil if the script does not know it
-- AFTER     order

local function move_in(roster, endpoints, count, unread)
  local by_work, classes, members, set, n, prefix = roster[2], roster[4], {}, { 'XX' }, 1, tostring(roster[5])
  for e = 1, #endpoints do members[e] = prefix .. endpoints[e] end
  local offset = offset_of(roster[5], 1)
  if #classes == 1 and classes[1][2] == 0 then
    for e = 1, #endpoints do
      local load = count[endpoints[e]]
      if by_work then load = unread[endpoints[e]] + REQUEST_TOKENS * load end
      if load > LOAD_MAX then load = LOAD_MAX end
      set[n + 1], set[n + 2], n = text_of(offset + load), members[e], n + 2
    end
  else
    -- Of one class, all scores begin with the same offset.
    local before = #classes > 1 and call('ZMSCORE', KEYS[3], unpack(members))
    for e = 1, #endpoints do
      local known = not before and offset or tonumber(before[e] or nil)
      if known then
        local endpoint = endpoints[e]
        set[n + 1] = text_of(score_of(roster, known, count[endpoint], unread[endpoint]))
        set[n + 2], n = members[e], n + 2
      end
    end
  end
  if n > 1 then call('ZADD', KEYS[3], unpack(set)) end
end

local function move(rosters, endpoints, count, unread)
  if #rosters == 0 or #endpoints == 0 then return end
  complete(KEYS[1], count, endpoints)
  for r = 1, #rosters do
    if rosters[r][2] then complete(KEYS[2], unread, endpoints) end
    for from = 1, #endpoints, 1000 do
      local part = #endpoints <= 1000 and endpoints or { unpack(endpoints, from, min(from + 999, #endpoints)) }
      move_in(rosters[r], part, count, unread)
    end
  end
end
