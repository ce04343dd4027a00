-- KEYS: the four sets, metas, and then the parts of those streams if they are asked for
-- ARGV: what a path begins with of which the record is asked for ('': all), then the ids, in the order of the metas
-- Returns for each: the number of its set, the flat hash (empty if there is none, or for another path; of a wrong type:
-- WRONGTYPE), the parts.
local found, beginning = {}, ARGV[1]
for i = 1, #ARGV - 1 do
  local id, meta, parts = ARGV[i + 1], KEYS[4 + i], KEYS[3 + #ARGV + i]
  local path = beginning ~= '' and try('HGET', meta, 'current_path')
  if path and string.sub(path, 1, #beginning) ~= beginning then
    found[i] = {0, {}}
  else
    found[i] = {home_of(id, 1), try('HGETALL', meta) or 'WRONGTYPE', parts and (try('HGETALL', parts) or 'WRONGTYPE')}
  end
end
return {'ok', found}
