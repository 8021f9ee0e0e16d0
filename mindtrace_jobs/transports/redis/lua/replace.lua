-- Adds a message to a queue in the place of a delivery, which is acknowledged.
-- ARGV: delivery tag; queue; milliseconds after which an unused queue expires or '0'; priority step number, seconds of delay
-- or '0', the message.
-- Returns 1; 0 if the lease was lost before, and nothing is added.
-- A delivery goes only when the message is in its place, since an error ends the script there. ZREM comes first all the same:
-- a script whose first write needs no memory may go on when maxmemory is reached, and this one needs hardly more than it
-- frees.
local tag, queue = ARGV[1], ARGV[2]
redis.call('ZREM', LEASES, '')
local held = redis.call('HEXISTS', UNACKED, tag) == 1
if held then
  add(kind_of(queue, true), queue, ARGV[4], ARGV[5], ARGV[6])
  expire(queue, ARGV[3])
  redis.call('HDEL', UNACKED, tag)
end
redis.call('ZREM', UNACKED_INDEX, tag)
redis.call('ZREM', LEASES, tag)
redis.call('HDEL', STARTED, tag)
return held and 1 or 0
