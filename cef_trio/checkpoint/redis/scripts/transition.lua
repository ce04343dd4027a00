-- KEYS: lease, meta, the four sets, the owed webhooks, and the parts if they are to be forgotten (start over)
-- ARGV: ours, id, status, its home (0: where it is), its home if it is nowhere, statuses it may follow,
--       '1' if its webhook is owed from now on, change
local refused = refusal(KEYS[1], KEYS[2], ARGV[1])
if refused then
  return refused
end
local current = redis.call('HGET', KEYS[2], 'status') or ''
if not among(current, ARGV[6]) then
  return {'refused', current}
end
local home = tonumber(ARGV[4])
if home == 0 then
  home = home_of(ARGV[2], 3)
end
if home == 0 then
  home = tonumber(ARGV[5])
end
redis.call('HSET', KEYS[2], 'status', ARGV[3])
settle(ARGV[2], 3, home)
apply(KEYS[2], 8)
if ARGV[7] == '1' then
  try('SADD', KEYS[7], ARGV[2])
end
if KEYS[8] then
  redis.call('DEL', KEYS[8])
end
return {'ok'}
