-- prepaid: a balance that administrators fill and requests use up.
--
-- ARGV    rule: balance of a consumer without a record, or -1 to refuse such consumers
-- LAYOUT  BALANCE    what is left of the balance that an administrator has set; -1 without a record, when the default
--                    applies; -2 minus what is left of a default, which is forgotten when it was not used for long
--         CHARGED    sum of all charges
--         OVERRUN    the part of CHARGED that exceeded the balance
--         DAY        days since the Unix epoch
--         TODAY      reserved on DAY by in-flight requests
--         YESTERDAY  reserved on the day before by in-flight requests
-- REPLY   balance, reserved, amount, day

-- Clients may be free to choose their consumer, so what is left of a default must not stay forever. Whoever waits this
-- long gets no more than a consumer with another name. If nothing was charged, the default is whole again when the
-- reservations count no longer. Equals server/store/src/memory/cell.rs.
local KEPT_DAYS, KEPT_DAYS_UNCHARGED = 400, 2

ALGORITHMS[PREPAID] = function(numbers, from, shadow, provisional)
  local BALANCE, CHARGED, OVERRUN, DAY, TODAY, YESTERDAY = 1, 2, 3, 4, 5, 6
  local default, today = numbers[from + 1], floor(now / 86400000)
  local place_of_taken = provisional and TODAY or CHARGED

  -- Returns the balance that applies, or -1.
  local function balance_of(c, at)
    local stored = c[at + BALANCE]
    if stored >= 0 then return stored end
    return (stored == -1 or default < 0) and default or -2 - stored
  end

  -- Returns for how many days what is left of a default is remembered.
  local function kept_days(c, at)
    return c[at + CHARGED] + c[at + OVERRUN] > 0 and KEPT_DAYS or KEPT_DAYS_UNCHARGED
  end

  -- Stores a balance. Returns the time until which it matters.
  local function store(c, at, balance)
    if c[at + BALANCE] >= 0 then
      c[at + BALANCE], c[LASTING] = balance, 1
      return 0
    end
    c[at + BALANCE] = -2 - balance
    return now + 86400000 * kept_days(c, at)
  end

  local function bring_up(c, at)
    local day = c[at + DAY]
    if c[at + BALANCE] < -1 and today - day >= kept_days(c, at) then
      c[at + BALANCE], c[at + CHARGED], c[at + OVERRUN] = -1, 0, 0
    end
    c[at + YESTERDAY] = day == today - 1 and c[at + TODAY] or 0
    c[at + DAY], c[at + TODAY] = today, 0
  end

  return {
    kind = PREPAID,
    doubles = 6,
    record = RECORD[PREPAID],
    shadow = shadow,
    -- One request at a time can take the rest of a balance.
    room = function(c, at, cost)
      if c[at + DAY] ~= today then bring_up(c, at) end
      local balance = balance_of(c, at)
      if balance >= 1 and balance >= cost then return cost end
      return balance > 0 and c[at + TODAY] + c[at + YESTERDAY] == 0 and balance or nil
    end,
    at_most = function(c, at, cost)
      return min(max(0, balance_of(c, at)), cost)
    end,
    take = function(c, at, taken, reply, n)
      local balance, changed = balance_of(c, at), nil
      if taken and balance >= 0 then
        balance = max(0, balance - taken)
        c[at + place_of_taken] = c[at + place_of_taken] + taken
        changed = store(c, at, balance)
      end
      local reserved, day = c[at + TODAY] + c[at + YESTERDAY], today
      if balance < 0 then balance, day = 0, 0 end
      reply[n + 1], reply[n + 2], reply[n + 3] = balance, reserved, balance + c[at + CHARGED] + reserved
      reply[n + 4] = day
      return n + 4, day, changed
    end,
    settle = function(c, at, day, reserved, actual)
      if c[at + DAY] ~= today then bring_up(c, at) end
      local balance, more = balance_of(c, at), actual - reserved
      if balance < 0 then return nil end
      if not provisional then
        c[at + CHARGED] = max(0, c[at + CHARGED] + more)
      else
        c[at + CHARGED] = c[at + CHARGED] + actual
        local place = at + (day == today and TODAY or YESTERDAY)
        if day == today or day == today - 1 then
          local left = c[place] - reserved
          c[place] = left > 0 and left or 0
        end
      end
      local paid = balance < more and balance or more
      c[at + OVERRUN] = c[at + OVERRUN] + more - paid
      return store(c, at, balance - paid)
    end,
    retry = function() return 0, 0 end,
    level = function(c, at) return c[at + BALANCE] == -1 and -1 or balance_of(c, at) end,
    figures = function(c, at)
      if c[at + DAY] ~= today then bring_up(c, at) end
      return c[at + CHARGED], c[at + TODAY] + c[at + YESTERDAY], c[at + OVERRUN]
    end,
  }
end
