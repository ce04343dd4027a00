-- KEYS: lease
-- ARGV: ours, instance, TTL in ms
local holder = holder_of(KEYS[1])
if not may_take(holder, ARGV[2]) then
  return {'lost', holder}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return {'ok'}
