-- budget: an amount in each window, from the consumer's record or the default.
--
-- ARGV    rule: amount for a consumer without a record, or -1 to refuse such consumers; windows; see edges
-- LAYOUT  START, USED, RESERVED; see window
--         AMOUNT   the amount on record; -1 without a record, when the default applies
-- REPLY   used, reserved, amount, start

do
  local AMOUNT = 4

  local function amount_of(c, at, rule)
    local amount = c[at + AMOUNT]
    return amount >= 0 and amount or rule.default
  end

  ALGORITHMS[BUDGET] = {
    kind = BUDGET,
    doubles = 4,
    quota = true,
    record = AMOUNT,
    rule = function(rule, numbers, from)
      rule.default = numbers[from + 1]
      rule.start, rule.stop = window_of(numbers, from)
    end,
    -- One request at a time can take the rest of a budget.
    room = function(c, at, rule, cost)
      window_now(c, at, rule)
      local amount = amount_of(c, at, rule)
      if amount < 0 then return nil end
      local left = amount - c[at + USED]
      if left >= 1 and left >= cost then return cost end
      return left > 0 and c[at + RESERVED] == 0 and left or nil
    end,
    take = window_take,
    settle = window_settle,
    read = function(c, at, rule, reply, n)
      local start = c[at + START]
      reply[n + 1], reply[n + 2] = c[at + USED], c[at + RESERVED]
      reply[n + 3], reply[n + 4] = max(0, amount_of(c, at, rule)), start
      return n + 4, start
    end,
    retry = function(c, at, rule) return amount_of(c, at, rule) > 0 and max(0, rule.stop - now) or 0, 0 end,
    figures = function(c, at, rule)
      window_now(c, at, rule)
      return c[at + USED], c[at + RESERVED], 0
    end,
  }
end
