-- Registers a consumer: it is counted until its lease ends. ARGV: seconds of lease; the consumer.
-- Those that are late may come back; those of yesterday do not. They go first: a script whose first write needs no memory
-- may go on when maxmemory is reached.
local moment = now()
redis.call('ZREMRANGEBYSCORE', CONSUMERS, '-inf', moment - 86400)
redis.call('ZADD', CONSUMERS, moment + tonumber(ARGV[1]), ARGV[2])
return 1
