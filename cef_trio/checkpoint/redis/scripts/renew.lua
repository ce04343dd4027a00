-- KEYS: index of the leases, leases
-- ARGV: ours, TTL in ms, ids
-- Returns the positions (from 1) of those that are not ours.
local lost, renewed = {}, {}
for i = 2, #KEYS do
  if holder_of(KEYS[i]) == ARGV[1] then
    redis.call('PEXPIRE', KEYS[i], ARGV[2])
    renewed[#renewed + 1] = ARGV[i + 1]
  else
    lost[#lost + 1] = i - 1
  end
end
index_leases(KEYS[1], now_ms(ARGV[2]), renewed)
return {'ok', lost}
