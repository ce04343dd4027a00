-- KEYS: the four sets, meta, parts
-- ARGV: id
return {'ok', home_of(ARGV[1], 1), redis.call('HGETALL', KEYS[5]), redis.call('HGETALL', KEYS[6])}
