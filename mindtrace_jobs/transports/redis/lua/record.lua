-- The record of a job, written as Celery's RedisBackend does, and told to whoever waits for it.
-- A success stays, as in Celery: the job was done, whoever did it again. The state comes first in every record that
-- Celery or this package writes.
-- What could not be written: {key, why, ...}.
local unwritten = {}

local function failed(key, reply)
  if type(reply) ~= 'table' or not reply.err then return false end
  unwritten[#unwritten + 1] = key
  unwritten[#unwritten + 1] = reply.err
  return true
end

-- ARGV from i on: key, or '' for none; value; seconds to keep it, '0' for ever.
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
