-- token_bucket: a steady rate of an amount per period, and up to `burst` at once: GCRA, as a continuous-state leaky
-- bucket (ITU-T I.371, annex A).
--
-- ARGV    rule: burst, amount, period in ms
-- LAYOUT  AS_OF   time of DEBT, ms
--         DEBT    tokens taken and not yet refilled, times the period: a whole number, so that rounding loses nothing
--         PERIOD  that period, ms
-- REPLY   used

do
  local AS_OF, DEBT, PERIOD = 1, 2, 3
  local ceil = math.ceil

  local function bring_up(c, at, rule)
    local period, as_of = c[at + PERIOD], c[at + AS_OF]
    if period ~= rule.period then
      c[at + DEBT] = period > 0 and c[at + DEBT] / period * rule.period or 0
      c[at + PERIOD] = rule.period
    end
    if as_of < now then
      c[at + AS_OF], c[at + DEBT] = now, max(0, c[at + DEBT] - (now - as_of) * rule.amount)
    end
  end

  ALGORITHMS[TOKEN_BUCKET] = {
    kind = TOKEN_BUCKET,
    doubles = 3,
    rule = function(rule, numbers, from)
      rule.burst, rule.amount, rule.period = numbers[from + 1], numbers[from + 2], numbers[from + 3]
      rule.full = rule.burst * rule.period
    end,
    room = function(c, at, rule, cost)
      bring_up(c, at, rule)
      return c[at + DEBT] + cost * rule.period <= rule.full and cost or nil
    end,
    take = function(c, at, rule, taken)
      local debt = c[at + DEBT] + taken * rule.period
      c[at + DEBT] = debt
      return now + debt / rule.amount
    end,
    settle = function(c, at, rule, taken_at, reserved, actual)
      bring_up(c, at, rule)
      local more = (actual - reserved) * rule.period
      -- Does not give back what the bucket has refilled since the reservation: other requests may have used it.
      if more < 0 then more = -min(-more, max(0, reserved * rule.period - (now - taken_at) * rule.amount)) end
      local debt = max(0, c[at + DEBT] + more)
      c[at + DEBT] = debt
      return now + debt / rule.amount
    end,
    read = function(c, at, rule, reply, n)
      reply[n + 1] = ceil(c[at + DEBT] / rule.period)
      return n + 1, now
    end,
    retry = function(c, at, rule, cost)
      if cost > rule.burst then return 0, 0 end
      local retry = ceil(max(0, c[at + DEBT] + cost * rule.period - rule.full) / rule.amount)
      return retry, rule.provisional and 0 or retry
    end,
  }
end
