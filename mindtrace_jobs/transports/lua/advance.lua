-- Ends deliveries whose work is done, and begins one; each with the record of its job, if that is kept here.
-- ARGV: how many end; for each, and then for the one that begins, if there is one: delivery tag; key of the record or '';
-- its value; seconds to keep it, '0' for ever.
-- Returns {tags whose lease was lost before}, and the state in the record of the one that begins, as it was. If that is
-- REVOKED, it was not begun.
-- HDEL comes first: a script whose first write needs no memory may go on when maxmemory is reached.

-- The state comes first in every record that Celery or this package writes.
local function state(key)
  if key == '' then return '' end
  return string.match(redis.call('GETRANGE', key, 0, 63), '^{%s*"status":%s*"(%u+)"') or ''
end

-- A success stays, as in Celery: the job was done, whoever did it again.
local function record(i, before)
  local key, value, seconds = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if key == '' or before == 'SUCCESS' then return end
  if seconds == '0' then
    redis.call('SET', key, value)
  else
    redis.call('SET', key, value, 'EX', seconds)
  end
  redis.call('PUBLISH', key, value)
end

local last = 1 + 4 * tonumber(ARGV[1])
local lost = {}
for i = 2, last, 4 do
  local tag = ARGV[i]
  if redis.call('HDEL', UNACKED, tag) == 0 then
    lost[#lost + 1] = tag
  else
    record(i + 1, state(ARGV[i + 1]))
  end
  redis.call('ZREM', UNACKED_INDEX, tag)
  redis.call('ZREM', LEASES, tag)
  redis.call('HDEL', STARTED, tag)
end

local before = ''
local tag = ARGV[last + 1]
if tag then
  before = state(ARGV[last + 2])
  redis.call('HDEL', STARTED, tag)
  if before ~= 'REVOKED' and redis.call('HEXISTS', UNACKED, tag) == 1 then
    redis.call('HSET', STARTED, tag, '1')
    record(last + 2, before)
  end
end
return {lost, before}
