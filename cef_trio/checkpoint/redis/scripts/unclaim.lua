-- Give up a process's part of a claim. The last process of the system leaves a note for as long as a claim lasts, so
-- that a system that waits for the name knows that the claim was not lost.
-- KEYS: claim
-- ARGV: system, process, TTL in ms
if try('HGET', KEYS[1], 'system') ~= ARGV[1] then
  return {'ok'}
end
redis.call('HDEL', KEYS[1], 'process:' .. ARGV[2])
for _, name in ipairs(redis.call('HGETALL', KEYS[1])) do
  if string.find(name, '^process:') then
    return {'ok'}
  end
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'released', '1')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {'ok'}
