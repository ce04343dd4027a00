-- KEYS: lease, meta, parts
-- ARGV: ours, the highest part number that stays
local refused = refusal(KEYS[1], KEYS[2], ARGV[1])
if refused then
  return refused
end
local last = tonumber(ARGV[2])
for _, number in ipairs(redis.call('HKEYS', KEYS[3])) do
  if tonumber(number) and tonumber(number) > last then
    redis.call('HDEL', KEYS[3], number)
  end
end
unverify(KEYS[2])
redis.call('HSET', KEYS[2], 'next_part_to_upload', last + 1)
return {'ok'}
