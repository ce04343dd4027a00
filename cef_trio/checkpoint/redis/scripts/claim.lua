-- Claim an owner's name for a running system, renew the claim, or only look at it (owner_claim.py).
-- KEYS: claim
-- ARGV: system, host, since, process, TTL in ms, when this process' system took the name if it held it without a gap
--       until now, else '0' (ms of this clock, as returned here), '1' to look only
-- Returns {'ok', taken} if the name is this system's now; {'free', '1' if its last system gave it up} for a look at a
-- name that no one has; {'other', system, host, since, ms until its claim ends} if another system has it.
-- A key of a wrong type is replaced. If the claim was lost (eviction, a failover), and a system took the name that was
-- started meanwhile, the one that held it without a gap takes it back: it took it earlier.
local system, host, since, taken, ttl, released =
  unpack(try('HMGET', KEYS[1], 'system', 'host', 'since', 'taken', 'ttl', 'released') or {})
local now = tonumber(now_ms())
local held_since = tonumber(ARGV[6]) or 0
local found = system and redis.call('HGETALL', KEYS[1]) or {}
if system and system ~= ARGV[1] and not (held_since > 0 and (tonumber(taken or '') or 0) > held_since) then
  local ends = now
  for i = 1, #found, 2 do
    if string.find(found[i], '^process:') then
      ends = math.max(ends, tonumber(found[i + 1]) or 0)
    end
  end
  -- Not longer than its TTL, whatever became of the clock.
  local left = math.min(ends - now, tonumber(ttl or '') or tonumber(ARGV[5]))
  return {'other', system, host or '', since or '', string.format('%.0f', left)}
end
if ARGV[7] == '1' then
  return {'free', released and '1' or '0'}
end
if system ~= ARGV[1] then
  redis.call('DEL', KEYS[1])
  found = {}
end
for i = 1, #found, 2 do
  if string.find(found[i], '^process:') and (tonumber(found[i + 1]) or 0) <= now then
    redis.call('HDEL', KEYS[1], found[i])
  end
end
redis.call('HSET', KEYS[1], 'system', ARGV[1])
redis.call('HSET', KEYS[1], 'host', ARGV[2])
redis.call('HSET', KEYS[1], 'ttl', ARGV[5])
redis.call('HSETNX', KEYS[1], 'since', ARGV[3])
redis.call('HSETNX', KEYS[1], 'taken', held_since > 0 and ARGV[6] or now_ms())
redis.call('HSET', KEYS[1], 'process:' .. ARGV[4], now_ms(ARGV[5]))
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return {'ok', redis.call('HGET', KEYS[1], 'taken')}
