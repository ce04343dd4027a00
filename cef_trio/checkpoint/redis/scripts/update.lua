-- KEYS: lease, meta
-- ARGV: ours, change
local refused = refusal(KEYS[1], KEYS[2], ARGV[1])
if refused then
  return refused
end
apply(KEYS[2], 2)
return {'ok'}
