-- KEYS: lease, meta, parts, by_path, the four sets and the indexes, the webhook events, and the meta of the lost stream if
--       one is named
-- ARGV: ours, instance, TTL in ms, id, path, home, the stream that the caller saw at the path ('': none), a stream whose
--       record may be lost ('': none), the name of the owner ('': none), the stream of another owner that the caller saw
--       at the path ('': none), id of a webhook event ('': none) and its body, number and pairs of the fields, number and
--       pairs of the parts
local holder = holder_of(KEYS[1])
if redis.call('EXISTS', KEYS[2]) == 1 then
  if holder ~= ARGV[1] then
    return {'lost', holder or ''}
  end
  if redis.call('HGET', KEYS[2], 'original_path') ~= ARGV[5] then
    return {'taken', ARGV[4]}
  end
  return {'ok'}
end
if not may_take(holder, ARGV[2]) then
  return {'lost', holder}
end
local field = ARGV[5]
if ARGV[9] ~= '' then
  local own = beside(field, ARGV[9])
  if redis.call('HGET', KEYS[4], own) or (ARGV[10] ~= '' and redis.call('HGET', KEYS[4], field) == ARGV[10]) then
    field = own
  end
end
local there = redis.call('HGET', KEYS[4], field)
if there and there ~= ARGV[4] and there ~= ARGV[7] then
  if there ~= ARGV[8] or redis.call('EXISTS', KEYS[16]) == 1 then
    return {'taken', there}
  end
end
local needed = {'DEL', 'HINCRBY', 'HMGET', 'HSET', 'SADD', 'SISMEMBER', 'SREM', 'TIME', 'ZADD', 'ZREM'}
if ARGV[11] ~= '' then
  needed[#needed + 1] = 'HLEN'
end
local refused = denied(KEYS[2], needed)
if refused then
  return refused
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
redis.call('DEL', KEYS[3])
local fields = pairs_at(13)
set_all(KEYS[2], fields)
set_all(KEYS[3], pairs_at(fields.next))
if home_of(ARGV[4], 5) == 0 then
  count_more(KEYS[4], 1)
end
settle(ARGV[4], 5, tonumber(ARGV[6]), KEYS[2])
index_leases(KEYS[14], now_ms(ARGV[3]), {ARGV[4]})
redis.call('HSET', KEYS[4], field, ARGV[4])
add_event(KEYS[15], ARGV[11], ARGV[12], MAX_STARTS)
return {'ok'}
