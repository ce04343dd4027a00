-- KEYS: daemons, seen, names
-- ARGV: name, report, how long reports are kept in ms, the most reports, the beginning of the names to return
-- Returns what reports.lua does, as it was before. An entry is the time of the report, in ms by this server's clock, a
-- space, and the report.
local now = now_ms()
local function forget(names)
  for _, name in ipairs(names) do
    redis.call('HDEL', KEYS[1], name)
    redis.call('ZREM', KEYS[2], name)
    redis.call('ZREM', KEYS[3], name)
  end
end
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('ZADD', KEYS[3], 0, ARGV[1])
local before = entries_of(ARGV[5])
redis.call('HSET', KEYS[1], ARGV[1], now .. ' ' .. ARGV[2])
forget(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[3]))
local too_many = redis.call('ZCARD', KEYS[2]) - ARGV[4]
if too_many > 0 then
  forget(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '+inf', 'LIMIT', 0, too_many))
end
for i = 1, #KEYS do
  redis.call('PEXPIRE', KEYS[i], ARGV[3]) -- without daemons nothing remains
end
return {'ok', now, before}
