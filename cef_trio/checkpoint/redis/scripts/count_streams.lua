-- KEYS: by_path, the four sets
-- ARGV: the field of by_path that counts the streams, '1' to set it
-- Returns the number that the field has (false: none; of a key of a wrong type: WRONGTYPE), and the sets' sizes together.
local known, there = try('HGET', KEYS[1], ARGV[1]), 0
for i = 2, 5 do
  there = there + (try('SCARD', KEYS[i]) or 0)
end
if known ~= nil and ARGV[2] == '1' then
  redis.call('HSET', KEYS[1], ARGV[1], there)
end
return {'ok', known == nil and 'WRONGTYPE' or known, there}
