-- Give up a process's part of a claim; the last process of the system removes the claim.
-- KEYS: claim
-- ARGV: system, process
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
return {'ok'}
