-- Adds messages to a queue.
-- ARGV: queue; '1' if an unknown queue is to be declared; milliseconds after which an unused queue expires or '0';
-- then for each message: its priority step number, seconds of delay or '0', the message.
local queue = ARGV[1]
local kind = redis.call('HGET', QUEUES, queue)
if not kind then
  kind = ''
  if ARGV[2] == '1' then
    local exists = 0
    for step = 1, #STEPS do exists = exists + redis.call('EXISTS', list(queue, step)) end
    if exists == 0 then
      kind = 'fifo'
      redis.call('HSET', QUEUES, queue, kind)
    end
  end
end
for i = 4, #ARGV, 3 do
  if ARGV[i + 1] == '0' then
    place(kind, queue, tonumber(ARGV[i]), ARGV[i + 2])
  else
    redis.call('ZADD', PREFIX .. queue .. DELAYED, now() + tonumber(ARGV[i + 1]), ARGV[i] .. ':' .. ARGV[i + 2])
  end
end
if ARGV[3] ~= '0' then
  for step = 1, #STEPS do redis.call('PEXPIRE', list(queue, step), ARGV[3]) end
end
return 1
