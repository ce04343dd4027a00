-- KEYS: lease, meta, parts
-- ARGV: ours, part number, its JSON, its size, the number after it, its time, '1' if its bytes replace others sent
local refused = refusal(KEYS[1], KEYS[2], ARGV[1])
if refused then
  return refused
end
if redis.call('HGET', KEYS[3], ARGV[2]) == ARGV[3] then
  return {'ok'} -- repeated, since its answer was lost
end
redis.call('HINCRBY', KEYS[2], 'total_bytes_sent', ARGV[4])
if tonumber(ARGV[5]) > tonumber(redis.call('HGET', KEYS[2], 'next_part_to_upload') or '1') then
  redis.call('HSET', KEYS[2], 'next_part_to_upload', ARGV[5])
end
redis.call('HSET', KEYS[2], 'last_activity_at_utc', ARGV[6])
unverify(KEYS[2])
if ARGV[7] == '1' then
  redis.call('HINCRBY', KEYS[2], 'parts_rewritten', 1)
  redis.call('HINCRBY', KEYS[2], 'bytes_rewritten', ARGV[4])
end
redis.call('HSET', KEYS[3], ARGV[2], ARGV[3])
return {'ok'}
