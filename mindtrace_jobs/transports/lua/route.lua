-- Adds one message to every queue bound to an exchange under the routing key; returns how many.
-- ARGV: exchange; the type to assume if the server has no record of it; routing key; priority step number; seconds of
-- delay or '0'; the message.
local function words(text)
  local found = {}
  if text == '' then return found end
  for word in string.gmatch(text .. '.', '([^.]*)%.') do found[#found + 1] = word end
  return found
end

-- AMQP's topic patterns: '*' is one word, '#' any number of words.
local function matches(pattern, key, p, k)
  if p > #pattern then return k > #key end
  if pattern[p] == '#' then
    for skip = k, #key + 1 do
      if matches(pattern, key, p + 1, skip) then return true end
    end
    return false
  end
  if k > #key then return false end
  return (pattern[p] == '*' or pattern[p] == key[k]) and matches(pattern, key, p + 1, k + 1)
end

local exchange, kind = ARGV[1], ARGV[2]
local record = redis.call('HGET', EXCHANGES, exchange)
if record then kind = string.match(record, '^%a+') end
local key = ARGV[3]
local key_words = kind == 'topic' and words(key)
local queues = {}
for _, binding in ipairs(redis.call('SMEMBERS', PREFIX .. BINDINGS .. exchange)) do
  local first, last = string.find(binding, SEP, 1, true)
  local bound = string.sub(binding, 1, first - 1)
  local _, second = string.find(binding, SEP, last + 1, true)
  local queue = string.sub(binding, second + 1)
  if kind == 'fanout' or (kind == 'topic' and matches(words(bound), key_words, 1, 1)) or bound == key then
    queues[queue] = true
  end
end
local count = 0
for queue in pairs(queues) do
  count = count + 1
  if ARGV[5] == '0' then
    place(redis.call('HGET', QUEUES, queue) or '', queue, tonumber(ARGV[4]), ARGV[6])
  else
    redis.call('ZADD', PREFIX .. queue .. DELAYED, now() + tonumber(ARGV[5]), ARGV[4] .. ':' .. ARGV[6])
  end
end
return count
