-- Counts a consumer until its lease ends. ARGV: seconds of lease; the consumer.
redis.call('ZADD', CONSUMERS, now() + tonumber(ARGV[1]), ARGV[2])
return 1
