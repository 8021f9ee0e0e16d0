-- Adds messages to a queue, one of them together with the record of its job if that is kept here.
-- ARGV: queue; '1' if an unknown queue is to be declared; milliseconds after which an unused queue expires or '0'; key of the
-- record or ''; with a key its value, seconds to keep it ('0' for ever), and the key that said of an earlier job of this id
-- that it is cancelled; then for each message: its priority step number, seconds of delay or '0', the message.
local queue = ARGV[1]
local first = 5
if ARGV[4] ~= '' then
  first = 8
  -- Before the message, as whatever fails here ends the script; what fails behind it takes it back. It is the first to
  -- write, since it needs memory: a script whose first write needs none would go on at maxmemory.
  if ARGV[6] == '0' then
    redis.call('SET', ARGV[4], ARGV[5])
  else
    redis.call('SET', ARGV[4], ARGV[5], 'EX', ARGV[6])
  end
  redis.call('DEL', ARGV[7])
end
local kind = kind_of(queue, ARGV[2] == '1')
local function add_all()
  for i = first, #ARGV, 3 do add(kind, queue, ARGV[i], ARGV[i + 1], ARGV[i + 2]) end
end
if first == 5 then
  add_all()
else
  local added, problem = pcall(add_all)
  if not added then
    redis.call('DEL', ARGV[4])
    error(problem)
  end
end
expire(queue, ARGV[3])
return 1
