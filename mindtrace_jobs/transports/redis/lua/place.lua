-- The list of `queue` at priority step number `step` (from 1).
local function list(queue, step)
  if STEPS[step] == '0' then return PREFIX .. queue end
  return PREFIX .. queue .. SEP .. STEPS[step]
end

-- Adds a new message where its queue's type wants it. Lists are taken from at the right.
local function place(kind, queue, step, message)
  if kind == 'stack' then
    redis.call('RPUSH', list(queue, 1), message)
  elseif kind == 'fifo' then
    redis.call('LPUSH', list(queue, 1), message)
  else
    redis.call('LPUSH', list(queue, step), message)
  end
end
