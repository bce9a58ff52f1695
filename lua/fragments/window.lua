-- window: the code that fixed windows and budgets share.
--
-- PROVIDES  window_settle(start, stop, provisional)   returns `settle` of a rule; see algorithms
-- LAYOUT    c[at + 1]  start of the window, ms
--           c[at + 2]  used amount
--           c[at + 3]  the part of the used amount that in-flight requests have reserved
-- A rule has `start` and `stop` of the current window.

local function window_settle(start, stop, provisional)
  return function(c, at, window, reserved, actual)
    local first = c[at + 1]
    -- If the clock was set back a little, the counter may belong to the next window. Keep it.
    if first ~= start and first ~= stop then
      first = start
      c[at + 1], c[at + 2], c[at + 3] = start, 0, 0
    end
    if first == window then
      local used = c[at + 2] + actual - reserved
      c[at + 2] = used > 0 and used or 0
      if provisional then
        local left = c[at + 3] - reserved
        c[at + 3] = left > 0 and left or 0
      end
    elseif actual > reserved then
      c[at + 2] = c[at + 2] + actual - reserved
    end
    return stop
  end
end
