-- KEYS: index of the leases, leases
-- ARGV: ours, ids
local released = {}
for i = 2, #KEYS do
  if holder_of(KEYS[i]) == ARGV[1] then
    redis.call('DEL', KEYS[i])
    released[#released + 1] = ARGV[i]
  end
end
index_leases(KEYS[1], now_ms(), released)
return {'ok'}
