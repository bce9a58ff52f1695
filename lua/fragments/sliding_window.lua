-- sliding_window: up to an amount in any window of the period's length, counted in 16 slots and the newest one.
--
-- ARGV    rule: amount, period in ms
-- LAYOUT  SLOT    number of the newest slot
--         SUM     of all slots
--         COUNTS  17 numbers: the newest slot, then the 16 before it
-- REPLY   used, slot

do
  local SLOT, SUM, COUNTS, SLOTS = 1, 2, 3, 16

  local function bring_up(c, at, rule)
    local by = rule.slot - c[at + SLOT]
    -- After the clock was set back a little, the newest slot is ahead of the clock. Keep it.
    if by == 0 or by < 0 and by >= -SLOTS then return end
    local newest, sum = at + COUNTS, 0
    for i = SLOTS, 0, -1 do
      local count = by > 0 and i >= by and c[newest + i - by] or 0
      c[newest + i], sum = count, sum + count
    end
    c[at + SLOT], c[at + SUM] = rule.slot, sum
  end

  ALGORITHMS[SLIDING_WINDOW] = {
    kind = SLIDING_WINDOW,
    doubles = SLOTS + 3,
    rule = function(rule, numbers, from)
      rule.amount = numbers[from + 1]
      rule.slot_ms = math.ceil(numbers[from + 2] / SLOTS)
      rule.slot = floor(now / rule.slot_ms)
      rule.stop = now + (SLOTS + 1) * rule.slot_ms
    end,
    room = function(c, at, rule, cost)
      bring_up(c, at, rule)
      return c[at + SUM] + cost <= rule.amount and cost or nil
    end,
    take = function(c, at, rule, taken)
      c[at + SUM], c[at + COUNTS] = c[at + SUM] + taken, c[at + COUNTS] + taken
      return rule.stop
    end,
    settle = function(c, at, rule, slot, reserved, actual)
      bring_up(c, at, rule)
      local age, more = c[at + SLOT] - slot, actual - reserved
      local known = age >= 0 and age <= SLOTS
      if known or more > 0 then
        local i = at + COUNTS + (known and age or 0)
        local before = c[i]
        c[i] = max(0, before + more)
        c[at + SUM] = c[at + SUM] + c[i] - before
      end
      return rule.stop
    end,
    read = function(c, at, _, reply, n)
      reply[n + 1], reply[n + 2] = c[at + SUM], c[at + SLOT]
      return n + 2, c[at + SLOT]
    end,
    retry = function(c, at, rule, cost)
      local left = c[at + SUM]
      for i = SLOTS, 0, -1 do
        local count = c[at + COUNTS + i]
        left = left - count
        if count > 0 and left + cost <= rule.amount then
          local retry = (c[at + SLOT] - i + SLOTS + 1) * rule.slot_ms - now
          return retry, rule.provisional and 0 or retry
        end
      end
      return 0, 0
    end,
  }
end
