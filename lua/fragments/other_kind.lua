-- other_kind: replaces the rule of a quota if its stored counter is of another kind than the rule. The record remains,
-- and the quota refuses.
--
-- PROVIDES  other_kind(shadow)   returns a rule; see algorithms
-- REPLY     as prepaid and budget, all 0

local function other_kind(shadow)
  return {
    shadow = shadow,
    room = function() return nil end,
    at_most = function() return 0 end,
    take = function(_, _, _, reply, n)
      reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = 0, 0, 0, 0
      return n + 4, 0, nil
    end,
    settle = function() return nil end,
    retry = function() return 0, 0 end,
  }
end
