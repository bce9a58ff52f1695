-- other_types: raises an error if a key of strings has another type.
--
-- PROVIDES  is_absent(key)   notes a key that MGET returned as missing
--           check_absent()   raises an error if one of these keys has another type. Scripts call it before they write
--
-- MGET returns a key of another type as missing, and SET would replace it.

local absent

local function is_absent(key)
  absent = absent or {}
  absent[#absent + 1] = key
end

local function check_absent()
  if absent and call('EXISTS', unpack(absent)) > 0 then
    -- GET raises the error.
    for i = 1, #absent do call('GET', absent[i]) end
  end
end
