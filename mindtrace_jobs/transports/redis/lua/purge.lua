-- Removes the ready and the delayed messages of a queue; returns how many. Their memory is freed in the background.
local function purge(queue)
  local delayed = PREFIX .. queue .. DELAYED
  local count = redis.call('ZCARD', delayed)
  redis.call('UNLINK', delayed)
  for step = 1, #STEPS do
    count = count + redis.call('LLEN', list(queue, step))
    redis.call('UNLINK', list(queue, step))
  end
  return count
end
