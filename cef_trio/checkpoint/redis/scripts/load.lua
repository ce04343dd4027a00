-- KEYS: the four sets, meta, parts
-- ARGV: id
-- A hash of a wrong type is the text WRONGTYPE.
return {'ok', home_of(ARGV[1], 1), try('HGETALL', KEYS[5]) or 'WRONGTYPE', try('HGETALL', KEYS[6]) or 'WRONGTYPE'}
