-- basics: functions and the time, which nearly every script uses.
--
-- PROVIDES  call, floor, max, min
--           now   ms since the Unix epoch by Redis's clock: the only clock that decides anything

local call, floor, max, min = redis.call, math.floor, math.max, math.min
local time = call('TIME')
local now = time[1] * 1000 + floor(time[2] / 1000)
