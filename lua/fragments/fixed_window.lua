-- fixed_window: up to an amount in each window.
--
-- ARGV    rule: amount, windows; see edges
-- LAYOUT  START, USED, RESERVED; see window
-- REPLY   used, reserved, start

ALGORITHMS[FIXED_WINDOW] = {
  kind = FIXED_WINDOW,
  doubles = 3,
  rule = function(rule, numbers, from)
    rule.amount = numbers[from + 1]
    rule.start, rule.stop = window_of(numbers, from)
  end,
  room = function(c, at, rule, cost)
    if c[at + START] ~= rule.start then window_now(c, at, rule) end
    return c[at + USED] + cost <= rule.amount and cost or nil
  end,
  take = window_take,
  settle = window_settle,
  read = function(c, at, _, reply, n)
    local start = c[at + START]
    reply[n + 1], reply[n + 2], reply[n + 3] = c[at + USED], c[at + RESERVED], start
    return n + 3, start
  end,
  retry = function(c, at, rule, cost)
    local reset = max(0, rule.stop - now)
    return cost <= rule.amount and reset or 0,
      c[at + USED] + cost - c[at + RESERVED] > rule.amount and reset or 0
  end,
}
