-- KEYS: lease, index of the leases
-- ARGV: ours, instance, TTL in ms, id
local holder = holder_of(KEYS[1])
if not may_take(holder, ARGV[2]) then
  return {'lost', holder}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
index_leases(KEYS[2], now_ms(ARGV[3]), {ARGV[4]})
return {'ok'}
