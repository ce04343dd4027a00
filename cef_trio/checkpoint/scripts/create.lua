-- KEYS: lease, meta, parts, by_path, the four sets
-- ARGV: ours, instance, TTL in ms, id, path, home, number of fields, names and values, then part numbers and values
local holder = holder_of(KEYS[1])
if redis.call('EXISTS', KEYS[2]) == 1 then
  if holder ~= ARGV[1] then
    return {'lost', holder or ''}
  end
  return {'ok'}
end
if not may_take(holder, ARGV[2]) then
  return {'lost', holder}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
redis.call('DEL', KEYS[3])
local last = 7 + 2 * tonumber(ARGV[7])
for i = 8, last, 2 do
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
end
for i = last + 1, #ARGV, 2 do
  redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
end
settle(ARGV[4], 5, tonumber(ARGV[6]))
redis.call('HSET', KEYS[4], ARGV[5], ARGV[4])
return {'ok'}
