-- window: the code that fixed windows and budgets share.
--
-- PROVIDES  window_now, window_take, window_settle; see algorithms
--           START, USED, RESERVED   positions: start of the window, ms; used amount; the part of the used amount that
--                                   in-flight requests have reserved
-- A rule has `start` and `stop` of the current window.

local START, USED, RESERVED = 1, 2, 3

-- After the clock was set back a little, the counter may be of the next window. Keep it.
local function window_now(c, at, rule)
  local start = c[at + START]
  if start ~= rule.start and start ~= rule.stop then
    c[at + START], c[at + USED], c[at + RESERVED] = rule.start, 0, 0
  end
end

local function window_take(c, at, rule, taken)
  c[at + USED] = c[at + USED] + taken
  if rule.provisional then c[at + RESERVED] = c[at + RESERVED] + taken end
  return rule.stop
end

local function window_settle(c, at, rule, window, reserved, actual)
  if c[at + START] ~= rule.start then window_now(c, at, rule) end
  local used = c[at + USED]
  if c[at + START] == window then
    c[at + USED] = max(0, used + actual - reserved)
    if rule.provisional then c[at + RESERVED] = max(0, c[at + RESERVED] - reserved) end
  elseif actual > reserved then
    c[at + USED] = used + actual - reserved
  end
  return rule.stop
end
