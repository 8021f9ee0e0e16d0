-- Removes the ready and the delayed messages of a queue; returns how many.
local function purge(queue)
  local delayed = PREFIX .. queue .. DELAYED
  local count = redis.call('ZCARD', delayed)
  redis.call('DEL', delayed)
  for step = 1, #STEPS do
    count = count + redis.call('LLEN', list(queue, step))
    redis.call('DEL', list(queue, step))
  end
  return count
end
