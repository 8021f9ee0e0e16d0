-- Marks a delivery as started. ARGV: delivery tag. HDEL first: a script whose first write needs no memory may go on
-- when maxmemory is reached.
redis.call('HDEL', STARTED, ARGV[1])
if redis.call('HEXISTS', UNACKED, ARGV[1]) == 1 then redis.call('HSET', STARTED, ARGV[1], '1') end
return 1
