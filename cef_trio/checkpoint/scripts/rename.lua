-- KEYS: lease, meta, by_path
-- ARGV: ours, id, new path
local refused = refusal(KEYS[1], KEYS[2], ARGV[1])
if refused then
  return refused
end
local old = redis.call('HGET', KEYS[2], 'current_path')
if old and redis.call('HGET', KEYS[3], old) == ARGV[2] then
  redis.call('HDEL', KEYS[3], old)
end
redis.call('HSET', KEYS[2], 'current_path', ARGV[3])
redis.call('HSET', KEYS[3], ARGV[3], ARGV[2])
return {'ok'}
