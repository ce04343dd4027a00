-- KEYS: lease, meta, parts, by_path, the four sets and the indexes, the pending webhooks, the requested aborts
-- ARGV: id, ended statuses
local refused = denied(KEYS[2], {'DEL', 'HDEL', 'HINCRBY', 'SISMEMBER', 'SREM', 'ZREM'})
if refused then
  return refused
end
local status, schema = unpack(redis.call('HMGET', KEYS[2], 'status', 'schema'))
if newer_schema(schema) then
  return {'ok'}
end
if status then
  if not among(status, ARGV[2]) then
    return {'ok'} -- open
  end
  leave_path(KEYS[4], redis.call('HGET', KEYS[2], 'current_path'), owner_of(KEYS[2]), ARGV[1])
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
if home_of(ARGV[1], 5) > 0 then
  count_more(KEYS[4], -1)
end
settle(ARGV[1], 5, 0)
try('SREM', KEYS[15], ARGV[1])
try('SREM', KEYS[16], ARGV[1])
return {'ok'}
