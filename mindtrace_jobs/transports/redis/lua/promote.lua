-- Moves the delayed messages that are due into their queue, oldest first. One goes only when it is in its place, since an
-- error ends the script there. ZREM comes first all the same: a script whose first write needs no memory may go on when
-- maxmemory is reached.
local function promote(kind, queue, moment)
  local delayed = PREFIX .. queue .. DELAYED
  local due = redis.call('ZRANGEBYSCORE', delayed, '-inf', moment, 'LIMIT', 0, 100)
  if due[1] then redis.call('ZREM', delayed, '') end
  for _, entry in ipairs(due) do
    local step, message = string.match(entry, '^(%d+):(.*)$')
    place(kind, queue, tonumber(step), message)
    redis.call('ZREM', delayed, entry)
  end
end
