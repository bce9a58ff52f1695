-- window: the code that fixed windows and budgets share.
--
-- PROVIDES  window_settle(start, stop, provisional)   returns `settle` of a rule; see algorithms
--           START, USED, RESERVED   positions: start of the window, ms; used amount; the part of the used amount that
--                                   in-flight requests have reserved
-- A rule has `start` and `stop` of the current window.

local START, USED, RESERVED = 1, 2, 3

local function window_settle(start, stop, provisional)
  return function(c, at, window, reserved, actual)
    local first = c[at + START]
    -- After the clock was set back a little, the counter may be of the next window. Keep it.
    if first ~= start and first ~= stop then
      first = start
      c[at + START], c[at + USED], c[at + RESERVED] = start, 0, 0
    end
    if first == window then
      local used = c[at + USED] + actual - reserved
      c[at + USED] = used > 0 and used or 0
      if provisional then
        local left = c[at + RESERVED] - reserved
        c[at + RESERVED] = left > 0 and left or 0
      end
    elseif actual > reserved then
      c[at + USED] = c[at + USED] + actual - reserved
    end
    return stop
  end
end
