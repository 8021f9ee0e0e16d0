-- Takes up to n messages and records each as unacknowledged in the same step.
-- KEYS: for each queue its delayed set and its lists; exactly these, since a client with tracking on is told about all
-- keys of a script that read anything.
-- ARGV: n; the most from one queue in the first round; prefix and first number of the delivery tags; seconds of lease;
-- then for each queue: its name, its name in JSON, 'gone' if its deliveries need no acknowledgement, else the milliseconds
-- after which it expires or ''.
-- Returns {queue number, message, ...}, the seconds until the next delayed message is due, or false, and the numbers of the
-- queues that were left out, since a key of theirs is of another type.
-- What was taken must be recorded, so nothing may raise in between: other keys of another type show before, and those of a
-- queue are an error only if they are so in every queue.
local wanted, share, prefix, number, lease = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), ARGV[5]
local queues = (#ARGV - 5) / 3
local names = {}
for q = 1, queues do names[q] = ARGV[3 + 3 * q] end
local kinds = {}
for first = 1, queues, 1000 do
  local found = redis.call('HMGET', QUEUES, unpack(names, first, math.min(first + 999, queues)))
  for i, kind in ipairs(found) do kinds[first + i - 1] = kind end
end
-- Writes that write nothing: whoever has tracking on would be told of changes to what is read.
redis.call('HDEL', UNACKED, '')
redis.call('ZREM', UNACKED_INDEX, '')
redis.call('ZREM', LEASES, '')
local moment = now()
local taken, held, index, leases, expiring = {}, {}, {}, {}, {}
local refused, refusal = {}, nil

-- Leave a queue out if that was because of the type of a key; any other error ends the script.
local function leave_out(q, problem)
  local text = type(problem) == 'table' and problem.err or tostring(problem)
  if not string.find(text, 'WRONGTYPE', 1, true) then error(problem) end
  refused[q], refusal = true, text
end

local function take(q, most)
  for s = 1, #STEPS do
    if most < 1 or refused[q] then return end
    local step = s
    if kinds[q] == 'priority' then step = #STEPS + 1 - s end
    local messages = redis.pcall('RPOP', KEYS[(q - 1) * (#STEPS + 1) + 1 + step], most)
    if messages and messages.err then
      leave_out(q, messages)
      messages = false
    end
    for _, message in ipairs(messages or {}) do
      taken[#taken + 1] = q
      taken[#taken + 1] = message
      if ARGV[5 + 3 * q] ~= 'gone' then
        local tag = prefix .. ':' .. string.format('%012d', number) .. ':' .. names[q]
        held[#held + 1] = tag
        held[#held + 1] = '[' .. message .. ', "", ' .. ARGV[4 + 3 * q] .. ']'
        index[#index + 1] = moment
        index[#index + 1] = tag
        leases[#leases + 1] = moment + lease
        leases[#leases + 1] = tag
        if ARGV[5 + 3 * q] ~= '' then expiring[q] = true end
      end
      number = number + 1
      most = most - 1
    end
  end
end

for q = 1, queues do
  local ok, problem = pcall(promote, kinds[q], names[q], moment)
  if not ok then leave_out(q, problem) end
end
for q = 1, queues do take(q, math.min(share, wanted - #taken / 2)) end
for q = 1, queues do
  if #taken / 2 < wanted then take(q, wanted - #taken / 2) end
end

if #held > 0 then
  redis.call('HSET', UNACKED, unpack(held))
  redis.call('ZADD', UNACKED_INDEX, unpack(index))
  redis.call('ZADD', LEASES, unpack(leases))
  -- A list that is emptied forgets when it expires; whoever requeues has to know. A week is longer than anything is held.
  for q in pairs(expiring) do
    redis.pcall('SET', EXPIRES .. names[q], ARGV[5 + 3 * q], 'PX', ARGV[5 + 3 * q] + 604800000)
  end
end

local left_out = {}
for q = 1, queues do
  if refused[q] then left_out[#left_out + 1] = q end
end
if #left_out == queues then return redis.error_reply(refusal) end

local due = false
if #taken / 2 < wanted then
  -- Read the keys that were found empty, so that tracking tells of what comes into them.
  for first = 1, #KEYS, 1000 do redis.call('EXISTS', unpack(KEYS, first, math.min(first + 999, #KEYS))) end
  for q = 1, queues do
    local first = redis.pcall('ZRANGE', KEYS[(q - 1) * (#STEPS + 1) + 1], 0, 0, 'WITHSCORES')
    if first[2] and not refused[q] then
      local left = math.max(tonumber(first[2]) - moment, 0)
      if not due or left < due then due = left end
    end
  end
end
return {taken, due and tostring(due), left_out}
