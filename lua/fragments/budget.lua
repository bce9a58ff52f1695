-- budget: an amount in each window, from the consumer's record or the default.
--
-- ARGV    rule: amount for a consumer without a record, or -1 to refuse such consumers; windows; see edges
-- LAYOUT  see window; then
--         c[at + 4]  the amount on record; -1 without a record, when the default applies
-- REPLY   used, reserved, amount, start

ALGORITHMS[BUDGET] = function(numbers, from, shadow, provisional)
  local default = numbers[from + 1]
  local start, stop = window_of(numbers[from + 2], numbers[from + 3], numbers[from + 4], numbers[from + 5])

  local function amount_of(c, at)
    local amount = c[at + 4]
    return amount >= 0 and amount or default
  end

  -- If the clock was set back a little, the counter may belong to the next window. Keep it.
  local function bring_up(c, at)
    local first = c[at + 1]
    if first ~= start and first ~= stop then c[at + 1], c[at + 2], c[at + 3] = start, 0, 0 end
  end

  return {
    kind = BUDGET,
    doubles = 4,
    record = RECORD[BUDGET],
    stop = stop,
    shadow = shadow,
    -- One request at a time can take the rest of a budget.
    room = function(c, at, cost)
      bring_up(c, at)
      local amount = amount_of(c, at)
      if amount < 0 then return nil end
      local left = amount - c[at + 2]
      if left >= 1 and left >= cost then return cost end
      return left > 0 and c[at + 3] == 0 and left or nil
    end,
    take = function(c, at, taken, reply, n)
      if taken then
        c[at + 2] = c[at + 2] + taken
        if provisional then c[at + 3] = c[at + 3] + taken end
      end
      local first = c[at + 1]
      reply[n + 1], reply[n + 2] = c[at + 2], c[at + 3]
      reply[n + 3], reply[n + 4] = max(0, amount_of(c, at)), first
      return n + 4, first, stop
    end,
    settle = window_settle(start, stop, provisional),
    retry = function(c, at) return amount_of(c, at) > 0 and max(0, stop - now) or 0, 0 end,
    level = function(c, at) return c[at + RECORD[BUDGET]] end,
    figures = function(c, at)
      bring_up(c, at)
      return c[at + 2], c[at + 3], 0
    end,
  }
end
