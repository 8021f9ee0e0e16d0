-- Acknowledges deliveries and starts one; each with the record of its job, if that is kept here.
-- ARGV: how many are acknowledged; for each, and then for the one that starts, if there is one: delivery tag; key of the
-- record or ''; its value; seconds to keep it, '0' for ever; the key whose presence says that the job is cancelled, or ''.
-- Returns {tags whose lease was lost before}; 1 if the job to be started is cancelled, in which case it was not started, else
-- 0; and {key of a record that could not be written, why, ...}: whatever stands there, the message is settled.
-- HDEL comes first: a script whose first write needs no memory may go on when maxmemory is reached.
local last = 1 + 5 * tonumber(ARGV[1])
local lost = {}
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

local tag, cancel = ARGV[last + 1], ARGV[last + 5]
if not tag then return {lost, 0, unwritten} end
redis.call('HDEL', STARTED, tag)
if cancel ~= '' and redis.pcall('EXISTS', cancel) == 1 then return {lost, 1, unwritten} end
if redis.call('HEXISTS', UNACKED, tag) == 1 then
  redis.call('HSET', STARTED, tag, '1')
  record(last + 2)
end
return {lost, 0, unwritten}
