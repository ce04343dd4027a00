-- KEYS: the requested aborts, metas
-- ARGV: ended statuses, ids
-- Returns the positions (from 1) of the streams that are open; each is requested to be aborted.
local requested = {}
for i = 2, #ARGV do
  local status = try('HGET', KEYS[i], 'status')
  if status and not among(status, ARGV[1]) then
    redis.call('SADD', KEYS[1], ARGV[i])
    requested[#requested + 1] = i - 1
  end
end
return {'ok', requested}
