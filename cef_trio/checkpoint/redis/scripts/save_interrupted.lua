-- KEYS: lease and meta of each stream
-- ARGV: ours, the status that is kept, number of statuses, statuses and what each may follow, then status and time of
--       each stream
-- Answers the positions (from 1) of the streams that could not be saved.
local ours, kept = ARGV[1], ARGV[2]
local count = tonumber(ARGV[3])
local may_follow = {}
for i = 1, count do
  may_follow[ARGV[2 + 2 * i]] = ARGV[3 + 2 * i]
end

local function save(lease_key, meta_key, asked, at)
  local current = try('HGET', meta_key, 'status')
  if not current then
    return false
  end
  local status = current == kept and kept or asked
  local ended = current ~= kept and not among(current, may_follow[asked])
  local holder = holder_of(lease_key)
  if not holder then
    -- Saving gives the lease up: repeated because its answer was lost, it finds its work done and no lease.
    return ended or (current == status and redis.call('HGET', meta_key, 'last_activity_at_utc') == at)
  end
  if holder ~= ours then
    return false
  end
  redis.call('DEL', lease_key)
  if not ended then
    redis.call('HSET', meta_key, 'status', status, 'last_activity_at_utc', at)
  end
  return true
end

local unsaved = {}
local first = 3 + 2 * count
for i = 1, #KEYS / 2 do
  if not save(KEYS[2 * i - 1], KEYS[2 * i], ARGV[first + 2 * i - 1], ARGV[first + 2 * i]) then
    unsaved[#unsaved + 1] = i
  end
end
return {'ok', unsaved}
