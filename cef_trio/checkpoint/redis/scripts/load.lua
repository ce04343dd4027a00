-- KEYS: the four sets, metas, and then the parts of those streams if they are asked for
-- ARGV: ids, in the order of the metas
-- Returns for each: the number of its set, the flat hash (empty if there is none; of a wrong type: WRONGTYPE), the parts.
local found = {}
for i = 1, #ARGV do
  local parts = KEYS[4 + #ARGV + i]
  found[i] = {
    home_of(ARGV[i], 1), try('HGETALL', KEYS[4 + i]) or 'WRONGTYPE', parts and (try('HGETALL', parts) or 'WRONGTYPE')
  }
end
return {'ok', found}
