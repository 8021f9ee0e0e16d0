-- The server's clock, in seconds.
local function now()
  local time = redis.call('TIME')
  return time[1] + time[2] / 1000000
end
