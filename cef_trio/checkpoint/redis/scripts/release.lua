-- KEYS: leases
-- ARGV: ours
for i = 1, #KEYS do
  if holder_of(KEYS[i]) == ARGV[1] then
    redis.call('DEL', KEYS[i])
  end
end
return {'ok'}
