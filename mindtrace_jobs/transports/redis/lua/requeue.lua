-- Puts deliveries back into their lists, in the order given.
-- ARGV: '1' to requeue only those whose lease has expired; then for each: delivery tag, queue, list, message, RPUSH to be the
-- next one or LPUSH to be the last one.
-- Returns the tags that were not there any more, and, of those whose lease has expired, the ones that stay for another
-- minute since the key of their list is of another type: they must not keep the others.
-- A delivery goes only when its message is in its place, since an error ends the script there. ZREM comes first all the
-- same: a script whose first write needs no memory may go on when maxmemory is reached.
redis.call('ZREM', LEASES, '')
local moment = now()
local gone, stay = {}, {}
for i = 2, #ARGV, 5 do
  local tag = ARGV[i]
  local expiry = ARGV[1] == '1' and tonumber(redis.call('ZSCORE', LEASES, tag) or 'inf')
  if not expiry or expiry <= moment then
    local refusal = false
    if redis.call('HEXISTS', UNACKED, tag) == 1 then
      local pushed = redis.pcall(ARGV[i + 4], ARGV[i + 2], ARGV[i + 3])
      refusal = type(pushed) == 'table' and pushed
      if not refusal then
        redis.call('HDEL', UNACKED, tag)
        local expires = redis.call('GET', EXPIRES .. ARGV[i + 1])
        if expires then redis.call('PEXPIRE', ARGV[i + 2], expires) end
      end
    else
      gone[#gone + 1] = tag
    end
    if not refusal then
      redis.call('ZREM', UNACKED_INDEX, tag)
      redis.call('ZREM', LEASES, tag)
      redis.call('HDEL', STARTED, tag)
    elseif ARGV[1] == '1' and string.find(refusal.err, 'WRONGTYPE', 1, true) then
      redis.call('ZADD', LEASES, moment + 60, tag)
      stay[#stay + 1] = tag
    else
      return refusal
    end
  end
end
return {gone, stay}
