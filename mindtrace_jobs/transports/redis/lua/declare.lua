-- Records the type of a queue unless it has one. ARGV: queue; type; '1' to record it.
-- Returns {type or false, number of ready messages, number of delayed ones}.
local queue = ARGV[1]
if ARGV[3] == '1' then redis.call('HSETNX', QUEUES, queue, ARGV[2]) end
local kind = redis.call('HGET', QUEUES, queue)
promote(kind or '', queue, now())
local ready = 0
for step = 1, #STEPS do ready = ready + redis.call('LLEN', list(queue, step)) end
return {kind, ready, redis.call('ZCARD', PREFIX .. queue .. DELAYED)}
