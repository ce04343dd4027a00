-- KEYS: daemons, seen
-- Returns {'ok', this server's time in ms, names and entries one after the other}. In place of the last, the position
-- in KEYS of a key of a wrong type.
local now = now_ms()
if try('ZCARD', KEYS[2]) == nil then
  return {'ok', now, 2}
end
return {'ok', now, try('HGETALL', KEYS[1]) or 1}
