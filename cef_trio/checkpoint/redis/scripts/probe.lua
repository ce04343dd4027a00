-- KEYS: probe
-- ARGV: TTL in ms
redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
return {'ok'}
