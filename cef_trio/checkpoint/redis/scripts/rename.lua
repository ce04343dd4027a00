-- KEYS: lease, meta, by_path, and the meta of the stream that the new path leads to if one is named
-- ARGV: ours, id, new path, the stream that the new path leads to ('': not known yet)
local refused = refusal(KEYS[1], KEYS[2], ARGV[1])
if refused then
  return refused
end
local owner = owner_of(KEYS[2])
local field = ARGV[3]
if owner and redis.call('HGET', KEYS[3], beside(ARGV[3], owner)) then
  field = beside(ARGV[3], owner)
elseif owner then
  local there = redis.call('HGET', KEYS[3], ARGV[3])
  if there and there ~= ARGV[2] then
    if there ~= ARGV[4] then
      return {'taken', there}
    end
    if redis.call('EXISTS', KEYS[4]) == 1 and owner_of(KEYS[4]) ~= owner then
      field = beside(ARGV[3], owner)
    end
  end
end
leave_path(KEYS[3], redis.call('HGET', KEYS[2], 'current_path'), owner, ARGV[2])
redis.call('HSET', KEYS[2], 'current_path', ARGV[3])
redis.call('HSET', KEYS[3], field, ARGV[2])
return {'ok'}
