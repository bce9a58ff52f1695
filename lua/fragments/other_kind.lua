-- other_kind: replaces the algorithm of a quota if its stored counter is of another kind than its rule. The record
-- remains, and the quota refuses.
--
-- PROVIDES  OTHER_KIND   an algorithm; see algorithms
-- REPLY     as prepaid and budget, all 0

local OTHER_KIND = {
  room = function() return nil end,
  at_most = function() return 0 end,
  take = function() return nil end,
  settle = function() return nil end,
  read = function(_, _, _, reply, n)
    reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = 0, 0, 0, 0
    return n + 4, 0
  end,
  retry = function() return 0, 0 end,
}
