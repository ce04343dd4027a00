-- Claim an owner's name for a running system, or renew the claim (owner_claim.py).
-- KEYS: claim
-- ARGV: system, host, since, process, TTL in ms
-- Returns {'other', system, host, since} if another system has it. A key of a wrong type is replaced.
local system, host, since = unpack(try('HMGET', KEYS[1], 'system', 'host', 'since') or {})
if system and system ~= ARGV[1] then
  return {'other', system, host or '', since or ''}
end
if system == nil then
  redis.call('DEL', KEYS[1])
end
local now = tonumber(now_ms())
local found = redis.call('HGETALL', KEYS[1])
for i = 1, #found, 2 do
  if string.find(found[i], '^process:') and (tonumber(found[i + 1]) or 0) <= now then
    redis.call('HDEL', KEYS[1], found[i])
  end
end
redis.call('HSET', KEYS[1], 'system', ARGV[1])
redis.call('HSET', KEYS[1], 'host', ARGV[2])
redis.call('HSETNX', KEYS[1], 'since', ARGV[3])
redis.call('HSET', KEYS[1], 'process:' .. ARGV[4], now_ms(ARGV[5]))
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return {'ok'}
