-- sliding_window: up to an amount in any window of the period's length, counted in 16 slots and the newest one.
--
-- ARGV    rule: amount, period in ms
-- LAYOUT  SLOT    number of the newest slot
--         SUM     of all slots
--         COUNTS  17 numbers: the newest slot, then the 16 before it
-- REPLY   used, slot

ALGORITHMS[SLIDING_WINDOW] = function(numbers, from, shadow, provisional)
  local SLOT, SUM, COUNTS, SLOTS = 1, 2, 3, 16
  local amount, slot_ms = numbers[from + 1], math.ceil(numbers[from + 2] / SLOTS)
  local slot, stop = floor(now / slot_ms), now + (SLOTS + 1) * slot_ms

  local function bring_up(c, at)
    local by = slot - c[at + SLOT]
    -- After the clock was set back a little, the newest slot is ahead of the clock. Keep it.
    if by == 0 or by < 0 and by >= -SLOTS then return end
    local newest, sum = at + COUNTS, 0
    for i = SLOTS, 0, -1 do
      local count = by > 0 and i >= by and c[newest + i - by] or 0
      c[newest + i], sum = count, sum + count
    end
    c[at + SLOT], c[at + SUM] = slot, sum
  end

  return {
    kind = SLIDING_WINDOW,
    doubles = SLOTS + 3,
    shadow = shadow,
    room = function(c, at, cost)
      bring_up(c, at)
      return c[at + SUM] + cost <= amount and cost or nil
    end,
    take = function(c, at, taken, reply, n)
      if taken then c[at + SUM], c[at + COUNTS] = c[at + SUM] + taken, c[at + COUNTS] + taken end
      reply[n + 1], reply[n + 2] = c[at + SUM], c[at + SLOT]
      return n + 2, c[at + SLOT], stop
    end,
    settle = function(c, at, window, reserved, actual)
      bring_up(c, at)
      local age, more = c[at + SLOT] - window, actual - reserved
      local known = age >= 0 and age <= SLOTS
      if known or more > 0 then
        local i = at + COUNTS + (known and age or 0)
        local before = c[i]
        c[i] = max(0, before + more)
        c[at + SUM] = c[at + SUM] + c[i] - before
      end
      return stop
    end,
    retry = function(c, at, cost)
      local left = c[at + SUM]
      for i = SLOTS, 0, -1 do
        local count = c[at + COUNTS + i]
        left = left - count
        if count > 0 and left + cost <= amount then
          local retry = (c[at + SLOT] - i + SLOTS + 1) * slot_ms - now
          return retry, provisional and 0 or retry
        end
      end
      return 0, 0
    end,
  }
end
