-- Renews leases and the registration of consumers.
-- ARGV: seconds of lease; number of delivery tags; the tags; the consumers. Returns the tags whose lease was lost.
-- Nothing comes back that was removed meanwhile; stock consumers, which restore by a rule of their own, leave the lease.
-- ZREM first: a script whose first write needs no memory may go on when maxmemory is reached.
redis.call('ZREM', LEASES, '')
local moment = now()
local expiry = moment + tonumber(ARGV[1])
local tags = tonumber(ARGV[2])
local lost = {}
for i = 3, 2 + tags do
  if redis.call('HEXISTS', UNACKED, ARGV[i]) == 1 and redis.call('ZSCORE', LEASES, ARGV[i]) then
    redis.call('ZADD', LEASES, 'XX', expiry, ARGV[i])
    redis.call('ZADD', UNACKED_INDEX, 'XX', moment, ARGV[i])
  else
    lost[#lost + 1] = ARGV[i]
    redis.call('ZREM', LEASES, ARGV[i])
    redis.call('HDEL', STARTED, ARGV[i])
  end
end
for i = 3 + tags, #ARGV do redis.call('ZADD', CONSUMERS, 'XX', expiry, ARGV[i]) end
return lost
