-- KEYS: by_path
-- ARGV: pairs of path and stream id; entries that exist are kept
-- Returns the number of new entries.
local added = 0
for i = 1, #ARGV, 2 do
  if not redis.call('HGET', KEYS[1], ARGV[i]) then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    added = added + 1
  end
end
return {'ok', added}
