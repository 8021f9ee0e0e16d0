-- Acknowledges deliveries and starts others; each with the record of its job, if that is kept here.
-- ARGV: how many are acknowledged; for each, and then for each one that starts: delivery tag; key of the record or ''; its
-- value; seconds to keep it, '0' for ever; the key whose presence says that the job is cancelled, or ''.
-- Returns 0, or if there is something to tell: {tags whose lease was lost before}; how many of the jobs to be started are
-- cancelled, and were not started; and {key of a record that could not be written, why, ...}: whatever stands there, the
-- message is settled.
-- HDEL comes first: a script whose first write needs no memory may go on when maxmemory is reached.
local last = 1 + 5 * tonumber(ARGV[1])
local lost, cancelled = {}, 0
for i = 2, last, 5 do
  local tag = ARGV[i]
  if redis.call('HDEL', UNACKED, tag) == 0 then
    lost[#lost + 1] = tag
  else
    record(i + 1)
  end
  redis.call('ZREM', UNACKED_INDEX, tag)
  redis.call('ZREM', LEASES, tag)
  redis.call('HDEL', STARTED, tag)
end

for i = last + 1, #ARGV, 5 do
  local tag, cancel = ARGV[i], ARGV[i + 4]
  redis.call('HDEL', STARTED, tag)
  if cancel ~= '' and redis.pcall('EXISTS', cancel) == 1 then
    cancelled = cancelled + 1
  elseif redis.call('HEXISTS', UNACKED, tag) == 1 then
    redis.call('HSET', STARTED, tag, '1')
    record(i + 1)
  end
end

if #lost == 0 and cancelled == 0 and #unwritten == 0 then return 0 end
return {lost, cancelled, unwritten}
