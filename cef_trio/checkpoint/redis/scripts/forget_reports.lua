-- KEYS: daemons, seen, names
-- ARGV: names
for _, name in ipairs(ARGV) do
  redis.call('HDEL', KEYS[1], name)
  redis.call('ZREM', KEYS[2], name)
  redis.call('ZREM', KEYS[3], name)
end
return {'ok'}
