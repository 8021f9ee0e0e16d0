-- Moves the delayed messages that are due into their queue, oldest first. ZREM comes first: a script whose first write
-- needs no memory may go on when maxmemory is reached.
local function promote(kind, queue, moment)
  local delayed = PREFIX .. queue .. DELAYED
  local due = redis.call('ZRANGEBYSCORE', delayed, '-inf', moment, 'LIMIT', 0, 100)
  for _, entry in ipairs(due) do
    redis.call('ZREM', delayed, entry)
    local step, message = string.match(entry, '^(%d+):(.*)$')
    place(kind, queue, tonumber(step), message)
  end
end
