-- KEYS: probe, a key that never exists
-- ARGV: TTL in ms
--
-- While a cluster moves the slot, it refuses scripts of which it finds some keys here and others not (TRYAGAIN). With
-- the key that never exists the probe is refused as the scripts of streams are.
redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
return {'ok'}
