-- KEYS: the four sets, metas
-- ARGV: ids, in the order of the metas
-- Answers for each: the number of its set, and the flat hash (empty if there is none; of a wrong type: WRONGTYPE).
local found = {}
for i = 1, #ARGV do
  found[i] = {home_of(ARGV[i], 1), try('HGETALL', KEYS[4 + i]) or 'WRONGTYPE'}
end
return {'ok', found}
