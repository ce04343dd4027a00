-- Put streams into the indexes of their sets, and take them out of all others. One that is in no set, as that key was
-- deleted or evicted, is put into that of its status; one without a record is taken out of all.
-- KEYS: the four sets and the indexes, metas
-- ARGV: the statuses of each set, then ids, in the order of the metas
for i = 5, #ARGV do
  local id, meta = ARGV[i], KEYS[6 + i]
  local home = redis.call('EXISTS', meta) == 1 and home_of(id, 1) or -1
  settle(id, 1, home == 0 and home_by_status(meta, ARGV) or home, meta)
end
return {'ok'}
