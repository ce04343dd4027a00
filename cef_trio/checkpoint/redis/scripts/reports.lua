-- KEYS: daemons, seen, names
-- ARGV: the beginning of the names to return; empty: all
-- Returns {'ok', this server's time in ms, names and entries one after the other}; in place of these the position in
-- KEYS of a key of a wrong type.
local now = now_ms()
for i = 2, 3 do
  if try('ZCARD', KEYS[i]) == nil then
    return {'ok', now, i}
  end
end
if ARGV[1] ~= '' then
  return {'ok', now, entries_of(ARGV[1])}
end
return {'ok', now, try('HGETALL', KEYS[1]) or 1}
