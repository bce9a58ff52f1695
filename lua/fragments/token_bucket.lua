-- token_bucket: a steady rate of an amount per period, and up to `burst` at once: GCRA, as a continuous-state leaky
-- bucket (ITU-T I.371, annex A).
--
-- ARGV    rule: burst, amount, period in ms
-- LAYOUT  c[at + 1]  time of the debt, ms
--         c[at + 2]  the debt: tokens taken and not yet refilled, times the period. It is a whole number, so that
--                    rounding loses nothing
--         c[at + 3]  that period, ms
-- REPLY   used

ALGORITHMS[TOKEN_BUCKET] = function(numbers, from, shadow, provisional)
  local ceil = math.ceil
  local burst, amount, period = numbers[from + 1], numbers[from + 2], numbers[from + 3]
  local full = burst * period

  -- Returns the debt as of now.
  local function bring_up(c, at)
    local before, as_of, debt = c[at + 3], c[at + 1], c[at + 2]
    if before ~= period then
      debt = before > 0 and debt / before * period or 0
      c[at + 3], c[at + 2] = period, debt
    end
    if as_of < now then
      debt = debt - (now - as_of) * amount
      if debt < 0 then debt = 0 end
      c[at + 1], c[at + 2] = now, debt
    end
    return debt
  end

  return {
    kind = TOKEN_BUCKET,
    doubles = 3,
    shadow = shadow,
    room = function(c, at, cost) return bring_up(c, at) + cost * period <= full and cost or nil end,
    take = function(c, at, taken, reply, n)
      local debt = c[at + 2]
      if taken then
        debt = debt + taken * period
        c[at + 2] = debt
      end
      reply[n + 1] = ceil(debt / period)
      return n + 1, now, now + debt / amount
    end,
    settle = function(c, at, taken_at, reserved, actual)
      local debt, more = bring_up(c, at), (actual - reserved) * period
      -- Does not give back what the bucket has refilled since the reservation: other requests may have used it.
      if more < 0 then more = -min(-more, max(0, reserved * period - (now - taken_at) * amount)) end
      debt = debt + more
      if debt < 0 then debt = 0 end
      c[at + 2] = debt
      return now + debt / amount
    end,
    retry = function(c, at, cost)
      if cost > burst then return 0, 0 end
      local retry = ceil(max(0, c[at + 2] + cost * period - full) / amount)
      return retry, provisional and 0 or retry
    end,
  }
end
