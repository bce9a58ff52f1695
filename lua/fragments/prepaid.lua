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

do
  local BALANCE, CHARGED, OVERRUN, DAY, TODAY, YESTERDAY = 1, 2, 3, 4, 5, 6
  local today = floor(now / 86400000)

  local function bring_up(c, at)
    local day = c[at + DAY]
    if day ~= today then
      c[at + YESTERDAY] = day == today - 1 and c[at + TODAY] or 0
      c[at + DAY], c[at + TODAY] = today, 0
    end
  end

  -- Records the default if there is no record. Returns whether there is a record now.
  local function on_record(c, at, rule)
    if c[at + BALANCE] < 0 then
      if rule.default < 0 then return false end
      c[at + BALANCE] = rule.default
    end
    c[LASTING] = 1
    return true
  end

  local function balance_of(c, at, rule)
    local balance = c[at + BALANCE]
    return balance >= 0 and balance or rule.default
  end

  ALGORITHMS[PREPAID] = {
    kind = PREPAID,
    doubles = 6,
    quota = true,
    record = BALANCE,
    rule = function(rule, numbers, from) rule.default = numbers[from + 1] end,
    -- One request at a time can take the rest of a balance.
    room = function(c, at, rule, cost)
      if c[at + DAY] ~= today then bring_up(c, at) end
      local balance = balance_of(c, at, rule)
      if balance >= 1 and balance >= cost then return cost end
      return balance > 0 and c[at + TODAY] + c[at + YESTERDAY] == 0 and balance or nil
    end,
    at_most = function(c, at, rule, cost) return min(max(0, balance_of(c, at, rule)), cost) end,
    take = function(c, at, rule, taken)
      if not on_record(c, at, rule) then return nil end
      c[at + BALANCE] = max(0, c[at + BALANCE] - taken)
      local place = at + (rule.provisional and TODAY or CHARGED)
      c[place] = c[place] + taken
      return 0
    end,
    settle = function(c, at, rule, day, reserved, actual)
      bring_up(c, at)
      if not on_record(c, at, rule) then return nil end
      local more = actual - reserved
      if not rule.provisional then
        c[at + CHARGED] = max(0, c[at + CHARGED] + more)
      else
        c[at + CHARGED] = c[at + CHARGED] + actual
        if day == today then
          c[at + TODAY] = max(0, c[at + TODAY] - reserved)
        elseif day == today - 1 then
          c[at + YESTERDAY] = max(0, c[at + YESTERDAY] - reserved)
        end
      end
      local paid = min(c[at + BALANCE], more)
      c[at + BALANCE], c[at + OVERRUN] = c[at + BALANCE] - paid, c[at + OVERRUN] + more - paid
      return 0
    end,
    read = function(c, at, rule, reply, n)
      local balance, reserved = balance_of(c, at, rule), c[at + TODAY] + c[at + YESTERDAY]
      local day = balance >= 0 and today or 0
      reply[n + 1], reply[n + 2] = max(0, balance), reserved
      reply[n + 3], reply[n + 4] = max(0, balance) + c[at + CHARGED] + reserved, day
      return n + 4, day
    end,
    retry = function() return 0, 0 end,
    figures = function(c, at)
      bring_up(c, at)
      return c[at + CHARGED], c[at + TODAY] + c[at + YESTERDAY], c[at + OVERRUN]
    end,
  }
end
