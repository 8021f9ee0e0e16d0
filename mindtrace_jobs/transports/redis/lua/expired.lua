-- The deliveries whose lease has expired, latest first: {tag, record, started, type of queue, ...}.
-- ARGV: at most how many; bytes of records after which no more are added.
-- Leases without a delivery are dropped.
local found = {}
local left = tonumber(ARGV[2])
for _, tag in ipairs(redis.call('ZREVRANGEBYSCORE', LEASES, now(), '-inf', 'LIMIT', 0, ARGV[1])) do
  if left <= 0 then break end
  local record = redis.call('HGET', UNACKED, tag)
  if record then
    left = left - #record
    found[#found + 1] = tag
    found[#found + 1] = record
    found[#found + 1] = redis.call('HEXISTS', STARTED, tag)
    found[#found + 1] = redis.call('HGET', QUEUES, string.match(tag, '^[^:]*:[^:]*:(.*)$')) or ''
  else
    redis.call('ZREM', LEASES, tag)
    redis.call('ZREM', UNACKED_INDEX, tag)
    redis.call('HDEL', STARTED, tag)
  end
end
return found
