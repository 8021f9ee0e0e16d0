-- Puts deliveries back at the front of their lists, in the order given.
-- ARGV: '1' to requeue only those whose lease has expired; then for each: delivery tag, list, message.
-- Returns the tags that were not there any more.
-- A delivery goes only when its message is in its place, since an error ends the script there. ZREM comes first all the
-- same: a script whose first write needs no memory may go on when maxmemory is reached.
redis.call('ZREM', LEASES, '')
local moment = now()
local gone = {}
for i = 2, #ARGV, 3 do
  local tag = ARGV[i]
  local expiry = ARGV[1] == '1' and tonumber(redis.call('ZSCORE', LEASES, tag) or 'inf')
  if not expiry or expiry <= moment then
    if redis.call('HEXISTS', UNACKED, tag) == 1 then
      redis.call('RPUSH', ARGV[i + 1], ARGV[i + 2])
      redis.call('HDEL', UNACKED, tag)
    else
      gone[#gone + 1] = tag
    end
    redis.call('ZREM', UNACKED_INDEX, tag)
    redis.call('ZREM', LEASES, tag)
    redis.call('HDEL', STARTED, tag)
  end
end
return gone
