-- KEYS: index of the leases, the sets of open streams, the requested aborts
-- ARGV: since when, until how long from now, in ms
-- Returns the time; the ids of the open streams whose leases end, expired or were released in that time, each with its
-- end (of an index of a wrong type: WRONGTYPE); those of some hundred streams that are in the index and in none of these
-- sets; and those of the streams that are to be aborted.
local expected, sets = 0, #KEYS - 1
for i = 2, sets do
  expected = expected + (try('SCARD', KEYS[i]) or 0)
end
local now, strays = now_ms(), {}
if try('ZCARD', KEYS[1]) ~= expected then -- lost, or of an earlier version: a lease that is held is seen by its key
  local known = {}
  for i = 2, sets do
    for _, id in ipairs(try('SMEMBERS', KEYS[i]) or {}) do
      known[id] = true
      try('ZADD', KEYS[1], 'NX', now, id)
    end
  end
  for _, id in ipairs(try('ZRANGEBYSCORE', KEYS[1], '-inf', '+inf') or {}) do
    if not known[id] and #strays < 500 then
      strays[#strays + 1] = id -- the caller settles them, by their records
    end
  end
end
local ends = try('ZRANGEBYSCORE', KEYS[1], ARGV[1], now_ms(ARGV[2]), 'WITHSCORES') or 'WRONGTYPE'
return {'ok', now, ends, strays, try('SMEMBERS', KEYS[#KEYS]) or {}}
