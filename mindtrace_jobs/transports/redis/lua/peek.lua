-- The next messages of a queue in the order they would be received.
-- ARGV: queue; at most how many; how many to leave out before them; '1' to cut their bodies out.
local queue, left, offset, cut = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local kind = redis.call('HGET', QUEUES, queue) or ''
promote(kind, queue, now())

-- Kombu writes the body first. One that has no quotation mark in it, as in base64, ends at the next one.
local function without_body(message)
  local first = '{"body": "'
  if string.sub(message, 1, #first) ~= first then return message end
  local last = string.find(message, '"', #first + 1, true)
  if not last or string.sub(message, last - 1, last - 1) == '\\' then return message end
  return first .. string.sub(message, last)
end

local found = {}
for s = 1, #STEPS do
  if left < 1 then break end
  local step = s
  if kind == 'priority' then step = #STEPS + 1 - s end
  local key = list(queue, step)
  local messages = redis.call('LRANGE', key, -(offset + left), -(offset + 1))
  for i = #messages, 1, -1 do
    found[#found + 1] = cut and without_body(messages[i]) or messages[i]
  end
  if #messages > 0 then offset = 0 else offset = math.max(0, offset - redis.call('LLEN', key)) end
  left = left - #messages
end
return found
