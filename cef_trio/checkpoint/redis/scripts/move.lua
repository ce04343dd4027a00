-- Move streams from the keys of earlier versions into the owner's namespace (legacy.py).
-- KEYS: at the old prefix: the four sets, by_path, the pending webhooks; in the namespace: by_path, the pending webhooks,
--       Keys.homes; then for each stream its lease, meta and parts at the old prefix, meta and parts in the namespace, and
--       the meta there of the stream that the caller saw at its path
-- ARGV: instance, then for each stream its id, the number of the set that its status belongs to, and the stream that the
--       caller saw at its path in the namespace ('': none)
-- Returns for each stream 'moved', 'absent' (there is no record), 'both' (there are two), 'newer', 'unreadable',
-- 'path_changed' (the caller saw another stream at its path), or its holder after 'held/'. A stream that was moved before, but not to its end, is moved to its end.
local old_by_path, old_webhooks, by_path, webhooks, homes = KEYS[5], KEYS[6], KEYS[7], KEYS[8], 9

-- Lead the path to the stream in the namespace too, if it led there. A stream that has the path there already keeps it,
-- unless it has no record; beside it only a stream of another owner has the path, as that entry wins (find_by_path).
local function move_path(id, meta, there, there_meta)
  local path, owner = redis.call('HGET', meta, 'current_path'), owner_of(meta)
  local led, was_beside = false, false
  for i, field in ipairs({path or nil, path and owner and beside(path, owner)}) do
    if try('HGET', old_by_path, field) == id then
      redis.call('HDEL', old_by_path, field)
      led, was_beside = true, i == 2
    end
  end
  if not led or try('HLEN', by_path) == nil then
    return
  end
  local other = owner_of(there_meta)
  if there == '' or there == id or redis.call('EXISTS', there_meta) == 0 then
    redis.call('HSET', by_path, path, id)
  elseif owner and other ~= owner and (other or was_beside) and not try('HGET', by_path, beside(path, owner)) then
    redis.call('HSET', by_path, beside(path, owner), id)
  end
end

local function move(id, by_status, seen, lease, from_meta, from_parts, meta, parts, seen_meta)
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
    local path = redis.call('HGET', from_meta, 'current_path')
    if path and (try('HGET', by_path, path) or '') ~= seen then
      return 'path_changed'
    end
    redis.call('RENAME', from_meta, meta)
  end
  if redis.call('EXISTS', from_parts) == 1 then
    redis.call('RENAME', from_parts, parts)
  end
  local home, home_here = home_of(id, 1), home_of(id, homes)
  if home_here == 0 then
    count_more(by_path, 1)
  end
  if home == 0 then
    home = home_here
  end
  settle(id, homes, home == 0 and by_status or home, meta)
  if try('SREM', old_webhooks, id) == 1 then
    try('SADD', webhooks, id)
  end
  move_path(id, meta, seen, seen_meta)
  redis.call('DEL', lease)
  for i = 1, 4 do
    try('SREM', KEYS[i], id)
  end
  return 'moved'
end

local results, first = {}, #KEYS - 6 * (#ARGV - 1) / 3
for i = 1, (#ARGV - 1) / 3 do
  local at, given = first + 6 * (i - 1), 3 * i - 1
  results[i] = move(ARGV[given], tonumber(ARGV[given + 1]), ARGV[given + 2], unpack(KEYS, at + 1, at + 6))
end
return {'ok', results}
