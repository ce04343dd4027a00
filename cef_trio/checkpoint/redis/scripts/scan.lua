-- Scan the server's keys. Within a script, so that in a cluster the server is the one that has the namespace.
-- KEYS: by_path
-- ARGV: cursor, pattern, COUNT
-- Returns the next cursor and the keys.
local reply = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
return {'ok', reply[1], reply[2]}
