-- KEYS: the namespace's schema
-- ARGV: none
-- Returns the schema before ('': none); it is raised to SCHEMA if it was older.
local before = redis.call('GET', KEYS[1]) or ''
if before == '' or (tonumber(before) or SCHEMA) < SCHEMA then
  redis.call('SET', KEYS[1], SCHEMA)
end
return {'ok', before}
