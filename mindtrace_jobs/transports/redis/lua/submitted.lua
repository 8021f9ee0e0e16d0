-- Writes the record of a job that is about to be published elsewhere, with the mark that this is not known to have happened.
-- ARGV: key and value of the mark; the key that says of an earlier job of this id that it is cancelled; key and value of the
-- record; seconds to keep both, '0' for ever.
-- The mark first: without it a record looks like that of any job that waits.
local function put(key, value)
  if ARGV[6] == '0' then
    redis.call('SET', key, value)
  else
    redis.call('SET', key, value, 'EX', ARGV[6])
  end
end
put(ARGV[1], ARGV[2])
put(ARGV[4], ARGV[5])
redis.call('DEL', ARGV[3])
redis.call('PUBLISH', ARGV[4], ARGV[5])
return 1
