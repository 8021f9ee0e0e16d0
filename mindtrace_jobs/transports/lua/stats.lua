-- Counts of a queue. ARGV: queue. Returns {ready, unacknowledged, delayed, consumers}.
local queue = ARGV[1]
local moment = now()
promote(redis.call('HGET', QUEUES, queue) or '', queue, moment)
local ready = 0
for step = 1, #STEPS do ready = ready + redis.call('LLEN', list(queue, step)) end
local unacknowledged = 0
for _, tag in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do
  if string.match(tag, '^[^:]*:[^:]*:(.*)$') == queue then unacknowledged = unacknowledged + 1 end
end
local consumers = 0
for _, consumer in ipairs(redis.call('ZRANGEBYSCORE', CONSUMERS, moment, '+inf')) do
  if string.match(consumer, '^[^:]*:(.*)$') == queue then consumers = consumers + 1 end
end
return {ready, unacknowledged, redis.call('ZCARD', PREFIX .. queue .. DELAYED), consumers}
