-- Put streams into the indexes of their sets, and take them out of all others.
-- KEYS: the four sets and the indexes, metas
-- ARGV: ids, in the order of the metas
for i = 1, #ARGV do
  settle(ARGV[i], 1, home_of(ARGV[i], 1), KEYS[10 + i])
end
return {'ok'}
