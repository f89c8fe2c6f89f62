-- Takes from all rules or from none, on the clock of the server.
-- KEYS[1]: whose rate. ARGV: how many requests, the cost of each, what was let in without a question, since when, in µs, and how much
-- the other replicas may have let in so; then for each rule the µs until one is free again, and how many of them a key may be ahead.
-- Answers how many of the requests are let in, and how many µs the key is ahead of each rule now.
-- The value is when it was written, and for each rule when its bucket will be full, in µs.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local count, cost, debt, age = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local late = tonumber(ARGV[5])
local rules = (#ARGV - 5) / 2
local old = {}
for word in string.gmatch(redis.call('GET', KEYS[1]) or '', '%S+') do
  old[#old + 1] = tonumber(word)
end
if #old ~= rules + 1 then
  old = {now}
end
-- A server that took over may have a clock that is behind: what is owed is owed in time from the writing.
local back = math.max(0, old[1] - now)
-- What is paid late is paid at the price of now, though it may have been free when it was used: who kept to the rate would be
-- refused for it, if nothing were let pass.
local interval, tolerance, full, slack = {}, {}, {}, {}
for rule = 1, rules do
  interval[rule], tolerance[rule] = tonumber(ARGV[4 + 2 * rule]), tonumber(ARGV[5 + 2 * rule])
  full[rule] = math.max(now, math.max((old[rule + 1] or 0) - back, now - age) + debt * interval[rule])
  slack[rule] = late * interval[rule]
end
local allowed = 0
while allowed < count do
  for rule = 1, rules do
    local room = tolerance[rule] - math.min(interval[rule] * cost, tolerance[rule])
    if full[rule] - now - slack[rule] > room then
      count = allowed
    end
  end
  if allowed < count then
    allowed = allowed + 1
    for rule = 1, rules do
      full[rule] = full[rule] + interval[rule] * cost
    end
  end
end
local last = 0
local answer, value = {allowed}, {string.format('%.0f', now)}
for rule = 1, rules do
  answer[rule + 1] = math.ceil(math.max(0, full[rule] - now - slack[rule]))
  value[rule + 1] = string.format('%.2f', full[rule])
  last = math.max(last, full[rule] - now)
end
if allowed > 0 or debt > 0 then
  redis.call('SET', KEYS[1], table.concat(value, ' '), 'PX', math.ceil(last / 1000) + 1000)
end
return answer
