-- The first messages of a queue in the order they would be taken. ARGV: queue; at most how many.
local queue, left = ARGV[1], tonumber(ARGV[2])
local kind = redis.call('HGET', QUEUES, queue) or ''
promote(kind, queue, now())
local found = {}
for s = 1, #STEPS do
  if left < 1 then break end
  local step = s
  if kind == 'priority' then step = #STEPS + 1 - s end
  local messages = redis.call('LRANGE', list(queue, step), -left, -1)
  for i = #messages, 1, -1 do found[#found + 1] = messages[i] end
  left = left - #messages
end
return found
