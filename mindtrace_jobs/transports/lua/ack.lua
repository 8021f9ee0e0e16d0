-- Removes deliveries whose work is done. ARGV: delivery tags. Returns those whose lease was lost before.
local lost = {}
for _, tag in ipairs(ARGV) do
  if redis.call('HDEL', UNACKED, tag) == 0 then lost[#lost + 1] = tag end
end
redis.call('ZREM', UNACKED_INDEX, unpack(ARGV))
redis.call('ZREM', LEASES, unpack(ARGV))
redis.call('HDEL', STARTED, unpack(ARGV))
return lost
