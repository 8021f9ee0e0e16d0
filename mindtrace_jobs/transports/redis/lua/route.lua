-- Adds one message to every queue bound to an exchange under the routing key; returns how many.
-- ARGV: exchange; the type to assume if the server has no record of it; routing key; priority step number; seconds of
-- delay or '0'; the message.
local function words(text)
  local found = {}
  if text == '' then return found end
  for word in string.gmatch(text .. '.', '([^.]*)%.') do found[#found + 1] = word end
  return found
end

-- AMQP's topic patterns: '*' is one word, '#' any number of words. Where the rest does not fit, only the last '#' need
-- take one more: what fitted before it may stay. So the time is at most the product of the two lengths.
local function matches(pattern, key)
  local p, k, hash, after = 1, 1, nil, nil
  while k <= #key do
    if pattern[p] == '#' then
      hash, after = p, k
      p = p + 1
    elseif pattern[p] == '*' or pattern[p] == key[k] then
      p, k = p + 1, k + 1
    elseif hash then
      after = after + 1
      p, k = hash + 1, after
    else
      return false
    end
  end
  while pattern[p] == '#' do p = p + 1 end
  return p > #pattern
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
  if kind == 'fanout' or (kind == 'topic' and matches(words(bound), key_words)) or bound == key then
    queues[queue] = true
  end
end
local count = 0
for queue in pairs(queues) do
  count = count + 1
  add(kind_of(queue), queue, ARGV[4], ARGV[5], ARGV[6])
end
return count
