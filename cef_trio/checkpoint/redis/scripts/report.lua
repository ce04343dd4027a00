-- KEYS: daemons, seen
-- ARGV: name, report, how long reports are kept in ms, the most reports
-- Returns {'ok', the replaced entry or ''}. An entry is the time of the report, in ms by this server's clock, a space,
-- and the report.
local now = now_ms()
local function forget(names)
  for _, name in ipairs(names) do
    redis.call('HDEL', KEYS[1], name)
    redis.call('ZREM', KEYS[2], name)
  end
end
redis.call('ZADD', KEYS[2], now, ARGV[1])
local before = redis.call('HGET', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], now .. ' ' .. ARGV[2])
forget(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[3]))
local too_many = redis.call('ZCARD', KEYS[2]) - ARGV[4]
if too_many > 0 then
  forget(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '+inf', 'LIMIT', 0, too_many))
end
-- Without daemons nothing remains; the keys outlast the last report, so that its silence is seen.
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return {'ok', before or ''}
