-- Removes a queue with all its messages, also those that are taken and unacknowledged, its bindings and its record.
-- ARGV: queue; the end of the record of a delivery that a stock consumer took from it.
local queue = ARGV[1]
local count = purge(queue)
redis.call('HDEL', QUEUES, queue)
redis.call('DEL', EXPIRES .. queue)

local tags = {}
for _, tag in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do
  if string.match(tag, '^[^:]*:[^:]*:(.*)$') == queue then tags[#tags + 1] = tag end
end
for _, tag in ipairs(redis.call('HKEYS', UNACKED)) do
  -- One by one, and only those of stock consumers: all of them may be more than there is memory for.
  if not redis.call('ZSCORE', LEASES, tag) and string.sub(redis.call('HGET', UNACKED, tag), -#ARGV[2]) == ARGV[2] then
    tags[#tags + 1] = tag
  end
end
for _, tag in ipairs(tags) do
  redis.call('HDEL', UNACKED, tag)
  redis.call('ZREM', UNACKED_INDEX, tag)
  redis.call('ZREM', LEASES, tag)
  redis.call('HDEL', STARTED, tag)
end

local ending = SEP .. queue
for _, exchange in ipairs(redis.call('HKEYS', EXCHANGES)) do
  for _, table in ipairs({PREFIX .. BINDINGS .. exchange, PREFIX .. BINDINGS_PERMANENT .. exchange}) do
    for _, binding in ipairs(redis.call('SMEMBERS', table)) do
      if string.sub(binding, -#ending) == ending then redis.call('SREM', table, binding) end
    end
  end
end
return count
