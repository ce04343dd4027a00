-- Move streams from the keys of earlier versions into the owner's namespace (legacy.py).
-- KEYS: at the old prefix: the four sets, by_path, the pending webhooks; in the namespace: by_path, the pending webhooks,
--       Keys.homes; then for each stream its lease, meta and parts at the old prefix, meta and parts in the namespace
-- ARGV: instance, then for each stream its id and the number of the set that its status belongs to
-- Returns for each stream 'moved', 'absent' (there is no record), 'both' (there are two), 'newer', 'unreadable', or its
-- holder after 'held/'. A stream that was moved before, but not to its end, is moved to its end.
local old_by_path, old_webhooks, by_path, webhooks, homes = KEYS[5], KEYS[6], KEYS[7], KEYS[8], 9

-- Lead the path to the stream in the namespace too, if it led there. A stream that has the path there already keeps it.
local function move_path(id, meta)
  local path, owner = redis.call('HGET', meta, 'current_path'), owner_of(meta)
  local led = false
  for _, field in ipairs({path or nil, path and owner and beside(path, owner)}) do
    if try('HGET', old_by_path, field) == id then
      redis.call('HDEL', old_by_path, field)
      led = true
    end
  end
  if not led then
    return
  end
  local there = try('HGET', by_path, path)
  if there == false or there == id then
    redis.call('HSET', by_path, path, id)
  elseif there and owner and try('HGET', by_path, beside(path, owner)) == false then
    redis.call('HSET', by_path, beside(path, owner), id)
  end
end

local function move(id, by_status, lease, from_meta, from_parts, meta, parts)
  local holder = holder_of(lease)
  if not may_take(holder, ARGV[1]) then
    return 'held/' .. holder
  end
  local here, there = redis.call('EXISTS', from_meta) == 1, redis.call('EXISTS', meta) == 1
  if here and there then
    return 'both'
  elseif not here and not there then
    return 'absent'
  elseif here then
    local schema = try('HGET', from_meta, 'schema')
    if schema == nil then
      return 'unreadable'
    elseif newer_schema(schema) then
      return 'newer'
    end
    redis.call('RENAME', from_meta, meta)
  end
  if redis.call('EXISTS', from_parts) == 1 then
    redis.call('RENAME', from_parts, parts)
  end
  local home = home_of(id, 1)
  if home == 0 then
    home = home_of(id, homes)
  end
  settle(id, homes, home == 0 and by_status or home, meta)
  if try('SREM', old_webhooks, id) == 1 then
    try('SADD', webhooks, id)
  end
  move_path(id, meta)
  redis.call('DEL', lease)
  for i = 1, 4 do
    try('SREM', KEYS[i], id)
  end
  return 'moved'
end

local results, first = {}, #KEYS - 5 * (#ARGV - 1) / 2
for i = 1, (#ARGV - 1) / 2 do
  local at = first + 5 * (i - 1)
  results[i] = move(ARGV[2 * i], tonumber(ARGV[2 * i + 1]), unpack(KEYS, at + 1, at + 5))
end
return {'ok', results}
