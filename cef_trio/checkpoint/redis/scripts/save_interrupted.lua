-- KEYS: index of the leases, lease and meta of each stream
-- ARGV: ours, the status that is kept, the statuses that may be interrupted, then status, time and id of each stream
-- Returns the positions (from 1) of the streams that could not be saved.
local ours, kept, interruptible = ARGV[1], ARGV[2], ARGV[3]
local released = {}

local function save(lease_key, meta_key, asked, at, id)
  local current, schema = unpack(try('HMGET', meta_key, 'status', 'schema') or {})
  if not current then
    return false
  end
  local status = current == kept and kept or asked
  local ended = current ~= kept and not among(current, interruptible)
  local holder = holder_of(lease_key)
  if not holder then
    -- Saving releases the lease, so a repetition after a lost reply finds the state saved and no lease.
    return ended or (current == status and redis.call('HGET', meta_key, 'last_activity_at_utc') == at)
  end
  if holder ~= ours then
    return false
  end
  redis.call('DEL', lease_key)
  released[#released + 1] = id
  if newer_schema(schema) then
    return false
  end
  if not ended then
    redis.call('HSET', meta_key, 'status', status, 'last_activity_at_utc', at, 'schema', SCHEMA)
  end
  return true
end

local unsaved = {}
for i = 1, (#KEYS - 1) / 2 do
  if not save(KEYS[2 * i], KEYS[2 * i + 1], ARGV[3 * i + 1], ARGV[3 * i + 2], ARGV[3 * i + 3]) then
    unsaved[#unsaved + 1] = i
  end
end
index_leases(KEYS[1], now_ms(), released)
return {'ok', unsaved}
