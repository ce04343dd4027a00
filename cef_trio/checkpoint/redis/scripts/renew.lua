-- KEYS: leases
-- ARGV: ours, TTL in ms
-- Returns the positions (from 1) of those that are not ours.
local lost = {}
for i = 1, #KEYS do
  if holder_of(KEYS[i]) == ARGV[1] then
    redis.call('PEXPIRE', KEYS[i], ARGV[2])
  else
    lost[#lost + 1] = i
  end
end
return {'ok', lost}
