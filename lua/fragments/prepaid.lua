-- prepaid: a balance that administrators fill and requests use up.
--
-- ARGV    rule: balance of a consumer without a record, or -1 to refuse such consumers
-- LAYOUT  BALANCE    the balance; -1 without a record, when the default applies
--         CHARGED    sum of all charges
--         OVERRUN    the part of CHARGED that exceeded the balance
--         DAY        days since the Unix epoch
--         TODAY      reserved on DAY by in-flight requests
--         YESTERDAY  reserved on the day before by in-flight requests
-- REPLY   balance, reserved, amount, day

ALGORITHMS[PREPAID] = function(numbers, from, shadow, provisional)
  local BALANCE, CHARGED, OVERRUN, DAY, TODAY, YESTERDAY = 1, 2, 3, 4, 5, 6
  local default, today = numbers[from + 1], floor(now / 86400000)
  local place_of_taken = provisional and TODAY or CHARGED

  local function bring_up(c, at)
    local day = c[at + DAY]
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
      local balance = c[at + BALANCE]
      if balance < 0 then balance = default end
      if balance >= 1 and balance >= cost then return cost end
      return balance > 0 and c[at + TODAY] + c[at + YESTERDAY] == 0 and balance or nil
    end,
    at_most = function(c, at, cost)
      local balance = c[at + BALANCE]
      return min(max(0, balance >= 0 and balance or default), cost)
    end,
    -- The first charge records the default.
    take = function(c, at, taken, reply, n)
      local balance, changed = c[at + BALANCE], nil
      if balance < 0 then balance = default end
      if taken and balance >= 0 then
        balance = balance - taken
        if balance < 0 then balance = 0 end
        c[at + BALANCE], c[at + place_of_taken], c[LASTING], changed = balance, c[at + place_of_taken] + taken, 1, 0
      end
      local reserved, day = c[at + TODAY] + c[at + YESTERDAY], today
      if balance < 0 then balance, day = 0, 0 end
      reply[n + 1], reply[n + 2], reply[n + 3] = balance, reserved, balance + c[at + CHARGED] + reserved
      reply[n + 4] = day
      return n + 4, day, changed
    end,
    settle = function(c, at, day, reserved, actual)
      if c[at + DAY] ~= today then bring_up(c, at) end
      local balance, more = c[at + BALANCE], actual - reserved
      if balance < 0 then
        if default < 0 then return nil end
        balance = default
      end
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
      c[at + BALANCE], c[at + OVERRUN], c[LASTING] = balance - paid, c[at + OVERRUN] + more - paid, 1
      return 0
    end,
    retry = function() return 0, 0 end,
    figures = function(c, at)
      if c[at + DAY] ~= today then bring_up(c, at) end
      return c[at + CHARGED], c[at + TODAY] + c[at + YESTERDAY], c[at + OVERRUN]
    end,
  }
end
