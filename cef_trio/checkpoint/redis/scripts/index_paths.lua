-- KEYS: by_path
-- ARGV: pairs of path and stream id; entries that exist are kept
-- Returns the number of new entries.
local added = 0
for i = 1, #ARGV, 2 do
  added = added + redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1])
end
return {'ok', added}
