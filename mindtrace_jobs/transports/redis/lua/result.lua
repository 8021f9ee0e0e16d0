-- Writes the record of a job where no message is settled with it.
-- ARGV: the key whose presence says that the job is cancelled, or ''; key, value and seconds of the record.
-- Returns 1 if the job is cancelled, in which case nothing was written, else 0.
if ARGV[1] ~= '' and redis.call('EXISTS', ARGV[1]) == 1 then return 1 end
record(2)
if unwritten[2] then return redis.error_reply(unwritten[2]) end
return 0
