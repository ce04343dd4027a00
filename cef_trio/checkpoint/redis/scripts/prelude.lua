-- Common functions, put before every script. Each script is one atomic step. It returns {'ok', ...}, or why it wrote
-- nothing: {'lost', holder}, {'gone'}, {'newer', schema}, {'refused', current status}, {'taken', stream at the path}. It
-- checks everything, permissions too, before it writes, since Redis does not roll back a script that fails. Every key comes in KEYS, so
-- that a cluster knows the slot; the transition table comes in ARGV, so that states.py is its only source. SCHEMA is
-- schema.py's CURRENT.

-- Call a command; return nil if its key has a wrong type, so that one bad key does not fail a script that works on many.
local function try(...)
  local reply = redis.pcall(...)
  if type(reply) ~= 'table' or not reply.err then
    return reply
  end
  if string.find(reply.err, 'WRONGTYPE', 1, true) then
    return nil
  end
  return redis.call(...) -- raises the error of Redis
end

-- Return the error of a command that this user may not run on `key` (ACL), to be asked before the first write, also of
-- commands that only read, if none has run by then; nil if it may run all. Servers before Redis 7 cannot tell.
local EXAMPLES = {
  DEL = {}, HDEL = {'f'}, HGET = {'f'}, HINCRBY = {'f', '1'}, HLEN = {}, HMGET = {'f'}, HSET = {'f', 'v'}, SADD = {'m'},
  SISMEMBER = {'m'}, SREM = {'m'}, TIME = {}, ZADD = {'1', 'm'}, ZREM = {'m'},
}
local function denied(key, commands)
  for _, command in ipairs(redis.acl_check_cmd and commands or {}) do
    if not redis.acl_check_cmd(command, key, unpack(EXAMPLES[command])) then
      return redis.error_reply("NOPERM this user has no permissions to run the '" .. string.lower(command) .. "' command")
    end
  end
  return nil
end

-- Return the holder of a lease; false if it is free; 'wrong type', which equals no holder, if the key is no string.
local function holder_of(lease_key)
  local holder = try('GET', lease_key)
  if holder == nil then
    return 'wrong type'
  end
  return holder
end

-- Return whether a lease may be taken: free, or held by any process of `instance` (the value is <instance>/<token>).
local function may_take(holder, instance)
  return not holder or (string.match(holder, '^(.*)/[^/]*$') or '') == instance
end

-- Return whether `word` is one of the words of `list`, which has a space between and around them.
local function among(word, list)
  return string.find(list, ' ' .. word .. ' ', 1, true) ~= nil
end

-- Return the schema of a record if this version may not write to it (schema.py): newer, or no number. Else nil.
local function newer_schema(schema)
  if schema and not ((tonumber(schema) or SCHEMA + 1) <= SCHEMA) then
    return schema
  end
  return nil
end

-- Return which of the four sets from KEYS[at] on has `id`; 0 if none.
local function home_of(id, at)
  for i = 0, 3 do
    if try('SISMEMBER', KEYS[at + i], id) == 1 then
      return i + 1
    end
  end
  return 0
end

-- Return the set where the record of a stream that is in none belongs by its status; 0 if there is no record, or one of
-- a newer version. `lists` are the statuses of each set, as ``among`` expects.
local function home_by_status(meta_key, lists)
  local status, schema = unpack(try('HMGET', meta_key, 'status', 'schema') or {})
  for i = 1, status and not newer_schema(schema) and 4 or 0 do
    if among(status, lists[i]) then
      return i
    end
  end
  return 0
end

if redis.replicate_commands then
  redis.replicate_commands() -- before Redis 5 no script may write after TIME
end

-- Return the time of this server in milliseconds, later by `more`, as text.
local function now_ms(more)
  local now = redis.call('TIME')
  return string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000) + (more or 0))
end

-- Return a time of a record (codec.encode_time) in milliseconds of Unix time, as text; '0' if it is none.
local function unix_ms(text)
  local form = '^(%d+)%-(%d+)%-(%d+)T(%d+):(%d+):(%d+)%.(%d%d%d)'
  local year, month, day, hour, minute, second, ms = string.match(text or '', form)
  if not year then
    return '0'
  end
  year, month = tonumber(year), tonumber(month)
  if month < 3 then
    year, month = year - 1, month + 12 -- a year that ends with February has its leap day last
  end
  local days = 365 * year + math.floor(year / 4) - math.floor(year / 100) + math.floor(year / 400)
    + math.floor((153 * (month - 3) + 2) / 5) + day - 719469
  return string.format('%.0f', (((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + ms)
end

-- Index the file of a completed stream; 'XX': if the stream is in the index.
local function index_file(id, at, how, meta_key)
  local inode, mtime = unpack(try('HMGET', meta_key, 'file_ino', 'verified_mtime_ns') or {})
  try('ZADD', KEYS[at + 7], how, tonumber(inode) and inode or 0, id)
  try('ZADD', KEYS[at + 8], how, tonumber(mtime) and mtime or 0, id)
end

-- Have `id` in exactly the set number `home` (1 to 4) of the four from KEYS[at] on, 0: in none, and in those of the
-- indexes that follow them (Keys.homes) where a stream of that set and record is. A key of a wrong type is skipped: the
-- record's status names the set too.
local function settle(id, at, home, meta_key)
  for i = 0, 3 do
    try(i + 1 == home and 'SADD' or 'SREM', KEYS[at + i], id)
  end
  local fields = {'status', 'last_activity_at_utc', 'completed_at_utc', 'let_go_at_utc'}
  local status, ended, completed, let_go = unpack(home > 2 and try('HMGET', meta_key, unpack(fields)) or {})
  local has_failed = string.find(status or '', '^failed_') and not let_go
  local history = home == 3 and 4 or home == 4 and (has_failed and 5 or 6)
  for i = 4, 6 do
    if i == history then
      try('ZADD', KEYS[at + i], 'NX', unix_ms(home == 3 and completed or ended), id)
    else
      try('ZREM', KEYS[at + i], id)
    end
  end
  if home == 3 then
    index_file(id, at, 'CH', meta_key)
  else
    try('ZREM', KEYS[at + 7], id)
    try('ZREM', KEYS[at + 8], id)
  end
  if home == 1 or home == 2 then
    try('ZADD', KEYS[at + 9], 'NX', now_ms(), id)
  else
    try('ZREM', KEYS[at + 9], id)
  end
end

-- Index when the leases of these streams expire, or were released. Streams that are not in the index are ended, or jobs.
local function index_leases(leases, ms, ids)
  local pairs = {}
  for i, id in ipairs(ids) do
    pairs[#pairs + 1] = ms
    pairs[#pairs + 1] = id
    if #pairs == 1000 or i == #ids then -- `unpack` of some thousands fails
      try('ZADD', leases, 'XX', unpack(pairs))
      pairs = {}
    end
  end
end

-- Add to the number of the streams in the four sets (codec.COUNT_FIELD), by which a lost index is noticed (indexes.py).
local function count_more(by_path, more)
  try('HINCRBY', by_path, COUNT_FIELD, more)
end

-- Return the field of by_path for a stream whose path another owner's stream has (codec.path_field).
local function beside(path, owner)
  return path .. '\0' .. owner
end

-- Return the name of the owner in a record; nil if it has none.
local function owner_of(meta_key)
  local owner = try('HGET', meta_key, 'owner')
  if owner and owner ~= '' then
    return owner
  end
  return nil
end

-- Remove the fields of by_path that lead from that path to the stream.
local function leave_path(by_path, path, owner, id)
  if not path then
    return
  end
  local fields = {path}
  if owner then
    fields[2] = beside(path, owner)
  end
  for _, name in ipairs(fields) do
    if redis.call('HGET', by_path, name) == id then
      redis.call('HDEL', by_path, name)
    end
  end
end

-- Return where the pairs in ARGV are whose number is ARGV[at]: `first` and `last` index, and the `next` one after them.
local function pairs_at(at)
  local last = at + 2 * tonumber(ARGV[at])
  return {first = at + 1, last = last, next = last + 1}
end

-- Add an event to the outbox, unless it has `most`; nothing for the id ''. One that is there already is replaced, and
-- repeated thereby.
local function add_event(events, event_id, body, most)
  if event_id ~= '' and (try('HLEN', events) or most) < most then
    redis.call('HSET', events, event_id, body)
  end
end

-- Set these fields of a hash.
local function set_all(key, fields)
  for i = fields.first, fields.last, 2 do
    redis.call('HSET', key, ARGV[i], ARGV[i + 1])
  end
end

-- Return the names in the registry of daemons (KEYS: daemons, seen, names) that begin so, each with its entry.
local function entries_of(beginning)
  local found = {}
  for _, name in ipairs(redis.call('ZRANGEBYLEX', KEYS[3], '[' .. beginning, '(' .. beginning .. '\255')) do
    local entry = redis.call('HGET', KEYS[1], name)
    if entry then
      found[#found + 1] = name
      found[#found + 1] = entry
    end
  end
  return found
end
