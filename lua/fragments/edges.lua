-- edges: the current window.
--
-- PROVIDES  window_of(numbers, from)   returns its start and its end, ms
-- ARGV      five numbers from numbers[from + 1] on: an amount; the length of the windows, ms, and 0, 0, 0; or the
--           amount and four edges of windows, ms: the start of the window before, of this one, of the next, and its end

local function window_of(numbers, from)
  local length, edge, after = numbers[from + 2], numbers[from + 3], numbers[from + 4]
  if edge == 0 then
    local start = now - now % length
    return start, start + length
  end
  if now < edge then return length, edge end
  if now < after then return edge, after end
  return after, numbers[from + 5]
end
