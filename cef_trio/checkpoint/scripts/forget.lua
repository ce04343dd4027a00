-- KEYS: lease, meta, parts, by_path, the four sets, the owed webhooks
-- ARGV: id, ended statuses
local status = redis.call('HGET', KEYS[2], 'status')
if status then
  if not among(status, ARGV[2]) then
    return {'ok'} -- open, or of a newer version
  end
  local path = redis.call('HGET', KEYS[2], 'current_path')
  if path and redis.call('HGET', KEYS[4], path) == ARGV[1] then
    redis.call('HDEL', KEYS[4], path)
  end
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
settle(ARGV[1], 5, 0)
try('SREM', KEYS[9], ARGV[1])
return {'ok'}
