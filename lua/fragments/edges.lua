-- edges: the current window.
--
-- PROVIDES  window_of(length, edge, after, last)   returns the window's start and end, ms
-- ARGV      five numbers: an amount, the duration of the windows in ms, and 0, 0, 0; or an amount and four edges in ms:
--           the starts of the previous, the current and the next window, and the end of the next window

local function window_of(length, edge, after, last)
  if edge == 0 then
    local start = now - now % length
    return start, start + length
  end
  if now < edge then return length, edge end
  if now < after then return edge, after end
  return after, last
end
