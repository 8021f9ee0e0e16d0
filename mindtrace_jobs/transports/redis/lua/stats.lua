-- Counts of a queue. ARGV: queue. Returns {ready, delayed, the server's time}.
local queue = ARGV[1]
local moment = now()
promote(redis.call('HGET', QUEUES, queue) or '', queue, moment)
local ready = 0
for step = 1, #STEPS do ready = ready + redis.call('LLEN', list(queue, step)) end
return {ready, redis.call('ZCARD', PREFIX .. queue .. DELAYED), tostring(moment)}
