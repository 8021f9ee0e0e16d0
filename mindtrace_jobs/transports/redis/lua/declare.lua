-- Records the type of a queue unless it has one; a plain queue becomes a priority queue, whose lists are the same.
-- ARGV: queue; type; '1' to record it.
-- Returns {type or false, number of ready messages, number of delayed ones}.
local queue = ARGV[1]
if ARGV[3] == '1' and redis.call('HSETNX', QUEUES, queue, ARGV[2]) == 0 then
  if ARGV[2] == 'priority' and redis.call('HGET', QUEUES, queue) == '' then redis.call('HSET', QUEUES, queue, ARGV[2]) end
end
local kind = redis.call('HGET', QUEUES, queue)
promote(kind or '', queue, now())
local ready = 0
for step = 1, #STEPS do ready = ready + redis.call('LLEN', list(queue, step)) end
return {kind, ready, redis.call('ZCARD', PREFIX .. queue .. DELAYED)}
