-- The type of a queue. One that is unknown and empty becomes a fifo queue if it is to be declared.
local function kind_of(queue, declare)
  local kind = redis.call('HGET', QUEUES, queue)
  if kind then return kind end
  if not declare then return '' end
  for step = 1, #STEPS do
    if redis.call('EXISTS', list(queue, step)) == 1 then return '' end
  end
  redis.call('HSET', QUEUES, queue, 'fifo')
  return 'fifo'
end

-- Adds a message to a queue: now, or when it is due in so many seconds; '0' is now.
local function add(kind, queue, step, delay, message)
  if delay == '0' then
    place(kind, queue, tonumber(step), message)
  else
    redis.call('ZADD', PREFIX .. queue .. DELAYED, now() + tonumber(delay), step .. ':' .. message)
  end
end

-- Has the lists of a queue expire in so many milliseconds; '0' is never.
local function expire(queue, milliseconds)
  if milliseconds == '0' then return end
  for step = 1, #STEPS do redis.call('PEXPIRE', list(queue, step), milliseconds) end
end
