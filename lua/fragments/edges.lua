-- edges: the current window.
--
-- PROVIDES  window_of(numbers, from)   returns the window's start and end, ms
-- ARGV      five numbers from numbers[from + 1] on: an amount, the duration of the windows in ms, and 0, 0, 0; or an
--           amount and four edges in ms: the starts of the previous, the current and the next window, and the end of
--           the next window

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
