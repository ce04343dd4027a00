-- Carry out a Commit (commit.py).
-- KEYS: lease, meta, parts, by_path, then with a status or a field of an index the four sets, the indexes, the pending
--       webhooks, the requested aborts and the webhook events, or with a new path the meta of the stream that is there, once it is named
-- ARGV: ours, id, status ('': as it is), its home (0: where it is), its home if it is nowhere, statuses it may follow,
--       least next_part_to_upload, '1' if the part may be recorded already, highest part number that stays ('': all),
--       '1' if its webhook is pending from now on, new path ('': as it is), the stream at the new path ('': not known
--       yet), id of a webhook event ('': none) and its body; then number and pairs of the fields to set, of the numbers to add and of the parts to record; then the
--       fields to remove
-- Returns {'taken', id} if the new path has an entry, to be called again with that stream's meta.
local holder = holder_of(KEYS[1])
if holder ~= ARGV[1] then
  return {'lost', holder or ''}
end
if redis.call('EXISTS', KEYS[2]) == 0 then
  return {'gone'}
end
local id, status, path = ARGV[2], ARGV[3], ARGV[11]
local sets = pairs_at(15)
local adds = pairs_at(sets.next)
local parts = pairs_at(adds.next)

-- Everything is read before anything is written: a key of a wrong type ends the script here.
local current, following, schema = unpack(redis.call('HMGET', KEYS[2], 'status', 'next_part_to_upload', 'schema'))
if newer_schema(schema) then
  return {'newer', schema}
end
if status ~= '' and not among(current or '', ARGV[6]) then
  return {'refused', current or ''}
end
if parts.last > parts.first then
  local recorded = redis.call('HGET', KEYS[3], ARGV[parts.first])
  if ARGV[8] == '1' and recorded == ARGV[parts.first + 1] then
    return {'ok'} -- repeated, as its reply was lost
  end
end
local removed = {}
if ARGV[9] ~= '' and ARGV[9] ~= '0' then
  local found = redis.call('HGETALL', KEYS[3])
  for i = 1, #found, 2 do
    if (tonumber(found[i]) or 0) > tonumber(ARGV[9]) then
      removed[#removed + 1] = found[i]
    end
  end
end
local raised = ARGV[7] ~= '1' and tonumber(ARGV[7]) > tonumber(following or '1') -- '1' raises nothing: do not parse
local owner, entry = owner_of(KEYS[2]), path
if path ~= '' and owner then
  local there = redis.call('HGET', KEYS[4], path)
  if redis.call('HGET', KEYS[4], beside(path, owner)) then
    entry = beside(path, owner)
  elseif there and there ~= id then
    if there ~= ARGV[12] then
      return {'taken', there}
    end
    if redis.call('EXISTS', KEYS[5]) == 1 and owner_of(KEYS[5]) ~= owner then
      entry = beside(path, owner)
    end
  end
end

local needed = {'HSET'}
if status ~= '' then
  needed = {'HSET', 'SADD', 'SISMEMBER', 'SREM', 'TIME', 'ZADD', 'ZREM'}
elseif #KEYS > 5 then
  needed[#needed + 1] = 'ZADD'
end
if adds.last > adds.first then
  needed[#needed + 1] = 'HINCRBY'
end
if path ~= '' then
  needed[#needed + 1] = 'HGET'
end
if path ~= '' or parts.next <= #ARGV or #removed > 0 then
  needed[#needed + 1] = 'HDEL'
end
if ARGV[13] ~= '' then
  needed[#needed + 1] = 'HLEN'
end
if ARGV[9] == '0' then
  needed[#needed + 1] = 'DEL'
end
local refused = denied(KEYS[2], needed)
if refused then
  return refused
end

if tonumber(schema or '1') < SCHEMA then
  redis.call('HSET', KEYS[2], 'schema', SCHEMA)
end
for i = adds.first, adds.last, 2 do
  redis.call('HINCRBY', KEYS[2], ARGV[i], ARGV[i + 1])
end
if path ~= '' then
  leave_path(KEYS[4], redis.call('HGET', KEYS[2], 'current_path'), owner, id)
  redis.call('HSET', KEYS[2], 'current_path', path)
  redis.call('HSET', KEYS[4], entry, id)
end
local home_after
if status ~= '' then
  local home = tonumber(ARGV[4])
  if home == 0 then
    home = home_of(id, 5)
  end
  redis.call('HSET', KEYS[2], 'status', status)
  home_after = home == 0 and tonumber(ARGV[5]) or home
end
if raised then
  redis.call('HSET', KEYS[2], 'next_part_to_upload', ARGV[7])
end
set_all(KEYS[2], sets)
if parts.next <= #ARGV then
  redis.call('HDEL', KEYS[2], unpack(ARGV, parts.next))
end
if home_after then
  settle(id, 5, home_after, KEYS[2])
elseif #KEYS > 5 then
  index_file(id, 5, 'XX', KEYS[2])
end
if ARGV[9] == '0' then
  redis.call('DEL', KEYS[3])
end
for _, number in ipairs(removed) do
  redis.call('HDEL', KEYS[3], number)
end
set_all(KEYS[3], parts)
if ARGV[10] == '1' then
  try('SADD', KEYS[15], id)
end
if home_after and (home_after > 2 or string.find(current, '^failed_')) then
  try('SREM', KEYS[16], id) -- it has ended, or is retried
end
if home_after then
  add_event(KEYS[17], ARGV[13], ARGV[14], MAX_EVENTS)
end
return {'ok'}
