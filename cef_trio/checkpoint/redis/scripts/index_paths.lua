
-- KEYS: the index of paths. ARGV: path, stream id, and so on. A path that is in it already stays as it is.
for i = 1, #ARGV, 2 do
    if not redis.call('HGET', KEYS[1], ARGV[i]) then
        redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    end
end
return {'ok'}
