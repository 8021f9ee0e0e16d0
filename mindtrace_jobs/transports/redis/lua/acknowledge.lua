-- Acknowledges deliveries and starts one; each with the record of its job, if that is kept here.
-- ARGV: how many are acknowledged; for each, and then for the one that starts, if there is one: delivery tag; key of the
-- record or ''; its value; seconds to keep it, '0' for ever; the key whose presence says that the job is cancelled, or ''.
-- Returns {tags whose lease was lost before}; 1 if the job to be started is cancelled, in which case it was not started, else
-- 0; and {key of a record that could not be written, why, ...}: whatever stands there, the message is settled.
-- HDEL comes first: a script whose first write needs no memory may go on when maxmemory is reached.

-- A success stays, as in Celery: the job was done, whoever did it again. The state comes first in every record that
-- Celery or this package writes.
local unwritten = {}

local function failed(key, reply)
  if type(reply) ~= 'table' or not reply.err then return false end
  unwritten[#unwritten + 1] = key
  unwritten[#unwritten + 1] = reply.err
  return true
end

local function record(i)
  local key, value, seconds = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if key == '' then return end
  local head = redis.pcall('GETRANGE', key, 0, 63)
  if failed(key, head) or string.match(head, '^{%s*"status":%s*"SUCCESS"') then return end
  local written
  if seconds == '0' then
    written = redis.pcall('SET', key, value)
  else
    written = redis.pcall('SET', key, value, 'EX', seconds)
  end
  if not failed(key, written) then failed(key, redis.pcall('PUBLISH', key, value)) end
end

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
