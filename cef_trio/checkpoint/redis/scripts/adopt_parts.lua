-- KEYS: lease, meta, parts
-- ARGV: ours, the number after the highest part, then part numbers and values
local refused = refusal(KEYS[1], KEYS[2], ARGV[1])
if refused then
  return refused
end
if tonumber(ARGV[2]) > tonumber(redis.call('HGET', KEYS[2], 'next_part_to_upload') or '1') then
  redis.call('HSET', KEYS[2], 'next_part_to_upload', ARGV[2])
end
if #ARGV > 2 then
  unverify(KEYS[2])
end
for i = 3, #ARGV, 2 do
  redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
end
return {'ok'}
