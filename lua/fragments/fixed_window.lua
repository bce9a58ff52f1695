-- fixed_window: up to an amount in each window.
--
-- ARGV    rule: amount, windows; see edges
-- LAYOUT  see window
-- REPLY   used, reserved, start

ALGORITHMS[FIXED_WINDOW] = function(numbers, from, shadow, provisional)
  local amount = numbers[from + 1]
  local start, stop = window_of(numbers[from + 2], numbers[from + 3], numbers[from + 4], numbers[from + 5])
  return {
    kind = FIXED_WINDOW,
    doubles = 3,
    shadow = shadow,
    room = function(c, at, cost)
      local first = c[at + 1]
      -- If the clock was set back a little, the counter may belong to the next window. Keep it.
      if first ~= start and first ~= stop then
        c[at + 1], c[at + 2], c[at + 3] = start, 0, 0
      end
      return c[at + 2] + cost <= amount and cost or nil
    end,
    take = function(c, at, taken, reply, n)
      local first, used, reserved = c[at + 1], c[at + 2], c[at + 3]
      if taken then
        used = used + taken
        c[at + 2] = used
        if provisional then
          reserved = reserved + taken
          c[at + 3] = reserved
        end
      end
      reply[n + 1], reply[n + 2], reply[n + 3] = used, reserved, first
      return n + 3, first, stop
    end,
    settle = window_settle(start, stop, provisional),
    retry = function(c, at, cost)
      local reset = max(0, stop - now)
      return cost <= amount and reset or 0, c[at + 2] + cost - c[at + 3] > amount and reset or 0
    end,
  }
end
